"""``counterpoise calibrate``: the exponent of a calibration, chosen on validation images."""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict

from counterpoise.commands.configs import config_of, config_of_training
from counterpoise.config.preparation import prepare
from counterpoise.errors import UserError
from counterpoise.inference.calibration_choice import ExponentResult, evaluate_exponents
from counterpoise.inference.validation_data import NOTHING_FOUND, split_overlaps
from counterpoise.modeling.architectures import RETINANETS
from counterpoise.utils.table import Table
from counterpoise.utils.text import number, signed


def run(args: argparse.Namespace) -> None:
    """Choose an exponent and print it.

    Raises:
        UserError: an argument, the config, the checkpoint or the data do not allow it.
    """
    for exponent in args.exponents:
        if not (exponent >= 0 and math.isfinite(exponent)):
            raise UserError(f"--exponents has {exponent:g}, expected numbers >= 0")
    cfg = config_of(args)
    if cfg.MODEL.META_ARCHITECTURE in RETINANETS:
        raise UserError(
            f"MODEL.META_ARCHITECTURE is '{cfg.MODEL.META_ARCHITECTURE}', which has no box head "
            "whose logits could be shifted: choose a score threshold per class with `counterpoise "
            "thresholds`"
        )
    cfg.BALANCE.SCORE_THRESHOLDS = ""  # those chosen for other scores
    cfg.BALANCE.CALIBRATION.NAME, cfg.BALANCE.CALIBRATION.EXPONENT = args.method, 0.0
    cfg.TEST.PRECISION = "float32"  # boxes are chosen outside the model's own mixed precision
    # Merged detections of several sizes have no logits of one pass.
    if cfg.TEST.AUG.ENABLED:
        raise UserError(
            "TEST.AUG.ENABLED is True, but the exponent is chosen on single passes: give "
            "TEST.AUG.ENABLED False, and use the exponent with augmentation afterwards"
        )
    prepare(cfg, eval_only=True, splits=("VAL",))
    cfg.freeze()
    warnings = split_overlaps(cfg, "exponents", config_of_training(args))
    exponents = [0.0, *sorted(set(args.exponents) - {0.0})]
    results, tail = evaluate_exponents(cfg, exponents, args.aim == "tail")
    best = best_of(results)
    doubts = _doubts(best) if results[0].AP else [NOTHING_FOUND]
    warnings += doubts
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    dataset = ", ".join(cfg.DATASETS.VAL)
    if args.json:
        content = {"method": args.method, "aim": args.aim, "dataset": dataset}
        content |= {"exponent": best.exponent, "tail": tail, "warnings": warnings}
        print(json.dumps(content | {"results": [asdict(r) for r in results]}, indent=2))
        return
    print(table(results, args.method, args.aim, dataset, tail))
    if best.exponent == 0:
        print(f"\nThe best exponent is 0: {args.method} does not help this model, leave it off")
    else:
        chance = ", perhaps by chance" if doubts else ""
        print(
            f"\nThe best exponent is {best.exponent:g}{chance}; use it with "
            f"BALANCE.CALIBRATION.NAME {args.method} BALANCE.CALIBRATION.EXPONENT {best.exponent:g}"
        )


def best_of(results: Sequence[ExponentResult]) -> ExponentResult:
    """The result of the largest difference; of those that the table shows as equal, the first."""
    return max(results, key=lambda result: round(result.difference, 1))


def _doubts(best: ExponentResult) -> list[str]:
    """Warn where the best exponent may be best by chance."""
    if best.exponent == 0:
        return []
    if best.interval is None:
        return ["no class is in two images of DATASETS.VAL, which are too few to choose on"]
    low, high = best.interval
    if low > 0:
        return []
    return [
        f"the difference of exponent {best.exponent:g} from 0 is {signed(best.difference)} "
        f"[{signed(low)}, {signed(high)}], so these validation images do not tell it from 0: small "
        "sets choose on noise, so take more images or leave the calibration off"
    ]


def table(
    results: Sequence[ExponentResult], method: str, aim: str, dataset: str, tail: Sequence[str]
) -> str:
    """Write the results as a table for the terminal."""
    rows = [
        (
            f"{r.exponent:g}", number(r.AP), number(r.tail_AP), signed(r.difference),
            "" if r.interval is None else f"[{signed(r.interval[0])}, {signed(r.interval[1])}]",
        )
        for r in results
    ]  # fmt: skip
    of = "AP" if aim == "AP" else "AP of the tail"
    headers = ("exponent", "AP", "AP of the tail", f"{of} against 0", "95 % interval")
    note = f"tail: {', '.join(tail)}" if tail else ""
    return Table(headers, rows, f"{method} by exponent on {dataset}", note).as_text()
