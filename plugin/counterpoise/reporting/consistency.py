"""Whether the detections that a run keeps are those that its results are about."""

from collections.abc import Sequence

from counterpoise.errors import UserError
from counterpoise.evaluation import Evaluation
from counterpoise.evaluation.average_precision import average_precision
from counterpoise.evaluation.matching import ClassMatches

_TOLERANCE = 1e-6  # points of AP50


def check_same_detections(
    evaluation: Evaluation, matches: Sequence[ClassMatches], where: str
) -> None:
    """Score the stored detections again at IoU 0.50 and compare with the results.

    Args:
        evaluation: results of the run on a test set.
        matches: of the detections and ground truth that it keeps, in the same class order.
        where: the run and test set, for the message.

    Raises:
        UserError: they differ, as when a file was changed or cut short.
    """
    for result, own in zip(evaluation.per_class, matches, strict=True):
        AP50 = None
        if own.num_gt:
            AP50 = 100 * average_precision(own.true_positives[0], ~own.ignored[0], own.num_gt)
        same = AP50 is result.AP50 or (
            AP50 is not None and result.AP50 is not None and abs(AP50 - result.AP50) < _TOLERANCE
        )
        if not same or own.num_gt != result.test_boxes:
            raise UserError(
                f"{where}: the detections and ground truth in inference/ are not those of "
                f"evaluation.json ('{result.name}': AP50 {_shown(AP50)} over {own.num_gt} boxes "
                f"against {_shown(result.AP50)} over {result.test_boxes}): evaluate the run again "
                "with train_net.py --eval-only"
            )


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
