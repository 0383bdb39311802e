"""``counterpoise replay``: a step that stopped a training, once more."""

import argparse
import math

from counterpoise.commands.imports import import_files
from counterpoise.config.loading import load_config
from counterpoise.config.preparation import use_a_device_that_is_here
from counterpoise.config.validation import check_config
from counterpoise.errors import UserError
from counterpoise.training.replay import Replay, replay
from counterpoise.utils.output_dir import CONFIG
from counterpoise.utils.table import Table


def run(args: argparse.Namespace) -> None:
    """Repeat a step and say what in it is not finite.

    Raises:
        UserError: the file holds no step, or its config is missing.
    """
    if args.step.is_dir():
        raise UserError(f"{args.step} is a folder: give its stopped_at_*.pth, the file of a step")
    files = list(args.config_file) or [args.step.parent / CONFIG]
    if not args.config_file and not files[0].is_file():
        raise UserError(f"{files[0]} does not exist: name the run's config with --config-file")
    import_files(args.imports)  # the config may name what they register
    cfg = load_config(files, args.opts)
    check_config(cfg)
    use_a_device_that_is_here(cfg)
    cfg.freeze()
    print(as_text(replay(cfg, args.step)))


def as_text(result: Replay) -> str:
    """What was found, for the terminal."""
    parts = [Table(("image", "boxes"), result.images).as_text()]
    if result.losses:
        rows = [(name, f"{value:.6g}") for name, value in result.losses.items()]
        parts.append(Table(("loss", "value"), rows).as_text())
    if result.error:
        parts.append(f"The model gives up: {result.error}")
    infinite = [name for name, value in result.losses.items() if not math.isfinite(value)]
    for names, meaning in (
        (infinite, "Losses that are not finite"),
        (result.parameters, "Weights that are not finite"),
        (result.layers, "Layers that make numbers that are not finite from finite ones"),
        (result.gradients, "Parameters whose gradient is not finite"),
    ):
        if names:
            shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            parts.append(f"{meaning}: {shown}")
    found = (result.error, infinite, result.parameters, result.layers, result.gradients)
    if not any(found):
        parts.append("All numbers of this step are finite here.")
    return "\n\n".join(parts)
