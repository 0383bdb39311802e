"""Config files by name: those of Counterpoise, and those of the installed Detectron2."""

import os
from pathlib import Path

from counterpoise.config.zoo import zoo_configs, zoo_folder
from counterpoise.errors import did_you_mean

_PACKAGE = Path(__file__).resolve().parents[1]


def config_folder() -> Path:
    """Folder of Counterpoise's config files: in the package, or in the checkout around it."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parents[1] / "configs"


def packaged_configs() -> list[str]:
    """Names of Counterpoise's config files, such as ``"quick/focal.yaml"``, sorted."""
    folder = config_folder()
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.yaml"))


def find_config(name: str | Path, folder: Path | None = None) -> Path:
    """Find a config file: a file of the user, else one of Counterpoise, else one of Detectron2.

    Args:
        name: path of a file; a name in :func:`packaged_configs`, with ``configs/`` before it or
            without; or a name in :func:`counterpoise.config.zoo.zoo_configs`.
        folder: that a relative path starts from; None for the working directory.

    Returns:
        its path; where there is no such file, the path of the user's.
    """
    path = (folder or Path()) / Path(name).expanduser()
    if os.path.exists(path):  # pathlib's raises for paths that the system refuses
        return path
    packaged = Path(name).as_posix().removeprefix("configs/")
    if packaged in packaged_configs():
        return config_folder() / packaged
    if Path(name).as_posix() in zoo_configs():
        return zoo_folder() / name
    return path


def closest_config(path: Path) -> str:
    """Phrase for the message that `path` is missing: which config files there are instead."""
    siblings = [sibling.name for sibling in path.parent.glob("*.yaml")]
    if siblings:
        return did_you_mean(path.name, siblings)
    name = path.as_posix().removeprefix("configs/")
    return did_you_mean(name, [*packaged_configs(), *zoo_configs()])
