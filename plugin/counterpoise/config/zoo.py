"""The config files of the installed Detectron2: where they are, and what is special about them.

They may compute values, which no other file may, and they describe Detectron2's own datasets.
"""

import logging
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

logger = logging.getLogger(__name__)

#: The only tag of Detectron2's files that runs code.
EVAL_TAG = "tag:yaml.org,2002:python/object/apply:eval"

#: Keys in which Detectron2's files describe its own datasets -> what happens without their value.
OF_ITS_DATA = {
    "MODEL.ROI_HEADS.NUM_CLASSES": "the number of classes follows the data",
    "MODEL.RETINANET.NUM_CLASSES": "the number of classes follows the data",
    "TEST.EXPECTED_RESULTS": "the results are those of COCO",
}


@cache
def zoo_folder() -> Path | None:
    """Folder of the model zoo's config files; None where Detectron2 has none.

    ``detectron2.model_zoo`` itself is not imported: it needs ``pkg_resources``.
    """
    spec = find_spec("detectron2")
    roots = spec.submodule_search_locations if spec is not None else None
    found = [Path(root, "model_zoo", "configs") for root in roots or ()]
    return next((folder for folder in found if folder.is_dir()), None)


def zoo_configs() -> list[str]:
    """Names of the files, such as ``"COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"``, sorted."""
    folder = zoo_folder()
    files = folder.rglob("*.yaml") if folder is not None else ()
    return sorted(path.relative_to(folder).as_posix() for path in files)


def is_detectron2s(path: Path) -> bool:
    """Whether a file, links followed, is part of the installed Detectron2."""
    folder = zoo_folder()
    if folder is None:
        return False
    # In an installation from a checkout the folder of the zoo is a link out of the package.
    package = folder.parents[1].resolve()
    return any(path.resolve().is_relative_to(root) for root in (package, folder.resolve()))


class ZooLoader(yaml.SafeLoader):
    """Reads a file of Detectron2, which computes some values by Python's ``eval``."""


def _evaluated(loader: ZooLoader, node: yaml.SequenceNode) -> Any:
    (expression,) = loader.construct_sequence(node)
    return eval(expression, {})


ZooLoader.add_constructor(EVAL_TAG, _evaluated)


def leave_out_its_data(tree: dict[str, Any], path: Path) -> None:
    """Take out what one of Detectron2's files says of Detectron2's own datasets, in place.

    Args:
        tree: content of the file.
        path: of the file, for the notice.
    """
    for full_key, consequence in OF_ITS_DATA.items():
        *sections, key = full_key.split(".")
        node = tree
        for section in sections:
            node = node.get(section, {})
        if key in node:
            del node[key]
            logger.warning(
                "%s of Detectron2's %s is left out: %s", full_key, path.name, consequence
            )
