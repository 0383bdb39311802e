"""Finding and reading a dataset's files; every failure becomes one clear sentence."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

from counterpoise.errors import UserError
from counterpoise.utils.files import check_is_file
from counterpoise.utils.images import image_suffixes
from counterpoise.utils.walking import find_files

#: Bytes of a file with the annotations of one image.
MAX_ANNOTATION_BYTES = 100_000_000


def require_folder(path: Path, what: str) -> Path:
    """Return ``path``.

    Raises:
        UserError: it is not a folder; ``what`` names the config key.
    """
    if not os.path.isdir(path):
        found = "a file" if os.path.exists(path) else "not there"
        raise UserError(f"{what} must be a folder, but {path} is {found}")
    return path


def require_file(path: Path, what: str) -> Path:
    """Return ``path``.

    Raises:
        UserError: it is not a file; ``what`` names the config key.
    """
    if not os.path.isfile(path):
        found = "a folder" if os.path.isdir(path) else "not there"
        raise UserError(f"{what} must be a file, but {path} is {found}")
    return path


def read_text(path: Path, what: str) -> str:
    """Return the text of a UTF-8 file, with or without a byte order mark.

    Raises:
        UserError: the file is missing or not readable as text; ``what`` names the config key.
    """
    require_file(path, what)
    try:
        check_is_file(path)
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{what} {path} cannot be read as UTF-8 text: {error}") from error


def is_found_by_a_walk(path: str, root: str) -> bool:
    """Whether :func:`find_files` of ``root`` lists a path, or would if it were there."""
    inner = path.removeprefix(os.path.join(root, ""))
    hidden = any(part.startswith((".", "__MACOSX")) for part in inner.split("/"))
    return path != inner and not hidden


def path_parts(written: str, root: str = "") -> tuple[str, ...]:
    """Split a path of any system into its parts, without its drive or leading slash.

    Args:
        written: the path.
        root: what it is relative to, unless it has a drive or a leading slash itself.
    """
    path = PureWindowsPath(root, written)  # knows both kinds of slashes
    return path.parts[1:] if path.anchor else path.parts


def find_by_trailing_part(
    parts: tuple[str, ...],
    folders: Iterable[Path],
    others: Iterable[tuple[str, ...]] = (),
) -> Path | None:
    """Find what a path of another machine names, by its longest trailing part that exists here.

    Of ``D:/work/sea/train/images``, ``train/images`` is the same wherever the dataset lies. A part
    that holds ``..`` is not followed, so nothing outside the folders is found.

    Args:
        parts: of the path, from :func:`path_parts`.
        folders: where to look.
        others: parts of other paths. A trailing part that one of them shares, such as the
            ``images`` of ``valid/images``, does not tell this path from that one and is not used.
    """
    others = [other for other in others if other != parts]
    for start in range(len(parts)):
        tail = parts[start:]
        if ".." in tail or any(other[-len(tail) :] == tail for other in others):
            continue
        for folder in folders:
            if os.path.exists(folder.joinpath(*tail)):
                return folder.joinpath(*tail)
    return None


class Boundary:
    """Whether files lie in the folders of a dataset, once all links in their paths are followed.

    Args:
        folders: of the dataset, themselves links or not; none sets no boundary.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = list(dict.fromkeys(map(str, folders)))
        self._written = [os.path.normpath(folder) for folder in self._folders]
        self._real = [os.path.realpath(folder) for folder in self._folders]
        self._real_of: dict[str, str] = {}

    def why_outside(self, path: str) -> str:
        """Say that a file, which need not exist, is not in the folders; empty where it is."""
        if not self._folders:
            return ""
        folder, name = os.path.split(path)
        if folder not in self._real_of:  # looked up once, as most files share theirs
            with contextlib.suppress(ValueError):  # no folder can be called so, so it is not there
                self._real_of[folder] = os.path.realpath(folder)
        if folder not in self._real_of:
            return ""
        real = os.path.join(self._real_of[folder], name)
        if name in ("", ".", "..") or os.path.islink(real):
            real = os.path.realpath(real)
        if _is_below(real, self._real):
            return ""
        written = os.path.normpath(path)
        leads = f" leads by a link to {real}, which" if _is_below(written, self._written) else ""
        outermost = [
            folder
            for folder, normal in zip(self._folders, self._written, strict=True)
            if not _is_below(normal, self._written)
        ]
        return (
            f"{written}{leads} is outside of {' and of '.join(outermost)}: set OUTSIDE_FILES True "
            "for the dataset if that is meant"
        )


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path.startswith(os.path.join(folder, "")) for folder in folders)


class ImageIndex:
    """All images under a folder, by file name and by stem, from one walk of it.

    Args:
        root: folder to search recursively.

    Raises:
        UserError: a folder under it cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._suffixes = image_suffixes()
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in find_files(root, self._suffixes.__contains__):
            self._by_name[path.name].append(path)
            self._by_stem[path.stem].append(path)

    def __len__(self) -> int:
        return sum(map(len, self._by_name.values()))

    def named(self, file_name: str) -> list[Path]:
        """Images of exactly this file name."""
        return self._by_name.get(file_name, [])

    def with_stem(self, stem: str) -> list[Path]:
        """Images of this stem, whatever their extension."""
        return self._by_stem.get(stem, [])

    def stem_of(self, file_name: str) -> str:
        """Remove an image extension; a dot that is part of the stem stays."""
        stem, suffix = os.path.splitext(file_name)
        return stem if suffix.lower() in self._suffixes else file_name
