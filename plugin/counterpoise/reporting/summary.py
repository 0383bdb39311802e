"""The main facts of an evaluation in a few plain sentences."""

from collections.abc import Mapping

from counterpoise.evaluation import ClassResult, Evaluation
from counterpoise.utils.text import counted, interval, number


def main_facts(test_set: str, evaluation: Evaluation, lost: Mapping[str, float]) -> list[str]:
    """Say how good a run is, how its rarest class fares, and which error type costs most.

    Args:
        test_set: its name.
        evaluation: on it.
        lost: AP50 that each error type costs, 0-100; may be empty.

    Returns:
        sentences.
    """
    classes = evaluation.per_class
    scored = [c for c in classes if c.AP is not None]
    over = f"{counted(len(scored), 'class')} in {counted(evaluation.test_images, 'image')}"
    facts = [f"On {test_set} the mean AP over {over} is {_rate(evaluation)}."]
    rarest = _rarest(scored)
    if rarest is not None:
        boxes = counted(rarest.train_boxes, "box")
        facts.append(
            f"Of them, {rarest.name} is the rarest in training ({boxes}): AP {_rate(rarest)}."
        )
    if lost and max(lost.values()) > 0:
        worst = max(lost, key=lost.get)
        facts.append(
            f"The error type that costs most is {worst}: without it, AP50 would be "
            f"{lost[worst]:.1f} higher."
        )
    return facts


def _rarest(classes: list[ClassResult]) -> ClassResult | None:
    known = [c for c in classes if c.train_boxes is not None]
    return min(known, key=lambda c: c.train_boxes) if len(known) > 1 else None


def _rate(result: Evaluation | ClassResult) -> str:
    if result.AP_interval is None:
        return number(result.AP)
    return f"{number(result.AP)} (95 % interval {interval(result.AP_interval)})"
