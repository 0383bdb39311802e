"""``counterpoise inspect``: what is in a dataset, and which settings follow from it."""

import argparse
import dataclasses
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from counterpoise.commands.options import add_command, add_config_arguments, config_of
from counterpoise.config.validation import check_config
from counterpoise.inspection import find_target, inspect
from counterpoise.inspection.sections import as_page, as_text
from counterpoise.utils.files import write_json, write_whole
from counterpoise.utils.progress import progress

EXAMPLES = """\
counterpoise inspect path/to/dataset
counterpoise inspect bccd_train --config-file configs/quick/focal_weights.yaml \\
    --config-file configs/datasets/bccd.yaml --out output/inspect/bccd
"""


def add_parser(commands: Any) -> None:
    """Add ``inspect`` to the subcommands."""
    parser = add_command(
        commands,
        "inspect",
        "count, measure and check a dataset, and recommend settings",
        "Class counts, box sizes against the model's anchors, co-occurrence, invalid annotations, "
        "files shared by splits, class weights, repeat factors, and a recommendation with the "
        "config lines to copy. The anchors are those of the config's model, or of R50-FPN without "
        "a config. Writes inspect.json and inspect.html.",
        EXAMPLES,
    )
    parser.add_argument(
        "target", metavar="NAME_OR_FOLDER",
        help="a dataset of the config or of Detectron2's catalogue, or a folder in YOLO "
        "(data.yaml), Pascal VOC or COCO form",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="for inspect.json and inspect.html (default output/inspect/<name>)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the tables")
    add_config_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Inspect, print and write.

    Raises:
        UserError: the dataset, folder or config cannot be used.
    """
    cfg = config_of(args)
    check_config(cfg)
    target = find_target(args.target, cfg)
    with _without_reports():
        inspection = inspect(target, cfg, lambda files: progress(files, "comparing files", "file"))
    out = args.out or Path("output", "inspect", re.sub(r"[^\w.-]+", "_", target.name))
    content = dataclasses.asdict(inspection)
    written = [
        write_json(out / "inspect.json", content),
        write_whole(out / "inspect.html", as_page(inspection)),
    ]
    if args.json:
        print(json.dumps(content, indent=2, allow_nan=False))
    else:
        print(as_text(inspection), "\n".join(map(str, written)), sep="\n\n")


@contextmanager
def _without_reports() -> Iterator[None]:
    """Keep the readers' reports out of the log: the inspection shows all that they hold."""
    logger = logging.getLogger("counterpoise.datasets")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
