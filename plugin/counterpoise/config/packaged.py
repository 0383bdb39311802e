"""The config files that come with Counterpoise: in the package, or in the checkout around it."""

from pathlib import Path

from counterpoise.errors import did_you_mean

_PACKAGE = Path(__file__).resolve().parents[1]


def config_folder() -> Path:
    """Folder of the config files; a wheel carries it inside the package."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parents[1] / "configs"


def packaged_configs() -> list[str]:
    """Names of the config files, such as ``"quick/focal.yaml"``, sorted."""
    folder = config_folder()
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.yaml"))


def find_config(name: str | Path, folder: Path | None = None) -> Path:
    """Find a config file: a file of the user, else the one of that name in the package.

    Args:
        name: path of a file, or a name in :func:`packaged_configs`, with ``configs/`` before it or
            without.
        folder: that a relative path starts from; None for the working directory.

    Returns:
        its path; where there is no such file, the path of the user's.
    """
    path = (folder or Path()) / Path(name).expanduser()
    packaged = Path(name).as_posix().removeprefix("configs/")
    if not path.exists() and packaged in packaged_configs():
        return config_folder() / packaged
    return path


def closest_config(path: Path) -> str:
    """Phrase for the message that `path` is missing: which config files there are instead."""
    siblings = [sibling.name for sibling in path.parent.glob("*.yaml")]
    if siblings:
        return did_you_mean(path.name, siblings)
    return did_you_mean(path.as_posix().removeprefix("configs/"), packaged_configs())
