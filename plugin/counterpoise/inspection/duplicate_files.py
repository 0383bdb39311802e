"""Files that hold the same bytes, in two splits or twice in one."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations_with_replacement

from counterpoise.inspection.results import DuplicateFiles, SharedFiles

Track = Callable[[Sequence[str]], Iterable[str]]


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
        try:
            with open(path, "rb") as file:
                content[path] = hashlib.sha256(file.read()).hexdigest()
        except OSError:
            unreadable.append(path)
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
