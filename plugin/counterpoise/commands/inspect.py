"""``counterpoise inspect``: what is in a dataset, and which settings follow from it."""

import argparse
import dataclasses
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from counterpoise.commands.configs import config_of
from counterpoise.config.validation import check_config
from counterpoise.inspection import find_target, inspect
from counterpoise.inspection.sections import as_page, as_text
from counterpoise.utils.files import write_atomically, write_json
from counterpoise.utils.progress import progress
from counterpoise.utils.text import printable


def run(args: argparse.Namespace) -> None:
    """Inspect, print and write.

    Raises:
        UserError: the dataset, folder or config cannot be used.
    """
    cfg = config_of(args)
    check_config(cfg)
    target = find_target(args.target, cfg, args.outside_files)
    with _without_reports():
        inspection = inspect(target, cfg, lambda files: progress(files, "comparing files", "file"))
    out = args.out or Path("output", "inspect", re.sub(r"[^\w.-]+", "_", target.name))
    content = dataclasses.asdict(inspection)
    written = [
        write_json(out / "inspect.json", content),
        write_atomically(out / "inspect.html", as_page(inspection)),
    ]
    if args.json:
        print(json.dumps(content, indent=2, allow_nan=False))
    else:
        print(printable("\n".join([as_text(inspection), "", *map(str, written)])))


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
