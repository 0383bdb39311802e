"""Files that hold the same bytes, in two splits or twice in one."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations_with_replacement

from counterpoise.inspection.results import DuplicateFiles, SharedFiles
from counterpoise.utils.files import sha256_of
from counterpoise.utils.progress import Track
from counterpoise.utils.text import printable

_HEAD = 4096  # bytes that tell most files of one size apart

logger = logging.getLogger(__name__)


def warn_of_shared_files(training: Iterable[str], test: Iterable[str], where: str) -> None:
    """Log how many files of a test set are in the training set as well, by content.

    Size and beginning tell most files apart, so that few are read as a whole.

    Args:
        training, test: files.
        where: the names of both sets, for the message.
    """
    groups = [dict.fromkeys(training), dict.fromkeys(test)]
    for digest in (_size, _head, _whole):
        keys = [{path: digest(path) for path in group} for group in groups]
        common = set(keys[0].values()) & set(keys[1].values()) - {None}
        groups = [{path: None for path, key in known.items() if key in common} for known in keys]
    shared = list(groups[1])
    if shared:
        logger.warning(
            "%s share files with the same content: %d of the test set, such as %s, are trained on, "
            "so that its results are too good; `counterpoise inspect` lists them",
            where, len(shared), printable(shared[0], lines=False),
        )  # fmt: skip


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _head(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except OSError:
        return None


def _whole(path: str) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None


def find_duplicate_files(
    splits: Mapping[str, Sequence[str]], track: Track = iter
) -> DuplicateFiles:
    """Compare the files of all splits by content.

    Only files that have their size in common with another one are read.

    Args:
        splits: files by the name of the split.
        track: wraps the files to hash, to show progress.
    """
    by_size: dict[int, set[str]] = defaultdict(set)
    unreadable = []
    listed = {path for files in splits.values() for path in files}
    for path in sorted(listed):
        try:
            by_size[os.stat(path).st_size].add(path)
        except OSError:
            unreadable.append(path)
    suspects = sorted(path for paths in by_size.values() if len(paths) > 1 for path in paths)
    content = {}
    for path in track(suspects):
        digest = _whole(path)
        if digest is None:
            unreadable.append(path)
        else:
            content[path] = digest
    # A file that shares its size with none is like itself alone, in whatever splits it is listed.
    keys = {name: [content.get(path, path) for path in files] for name, files in splits.items()}
    shared = []
    for first, second in combinations_with_replacement(splits, 2):
        others: dict[str, int] = {}
        for i, key in enumerate(keys[second]):
            others.setdefault(key, i)
        pairs = tuple(
            (splits[first][i], splits[second][others[key]])
            for i, key in enumerate(keys[first])
            if key in others and not (first == second and others[key] == i)
        )
        if pairs:
            shared.append(SharedFiles(first, second, len(pairs), pairs))
    return DuplicateFiles(len(listed), len(content), tuple(unreadable), tuple(shared))
