"""What a checkpoint says of the training set of its model: classes, counts and class weights."""

from collections.abc import Mapping
from typing import Any

from counterpoise.balance.class_counts import ClassCounts
from counterpoise.modeling.safe_loading import load_tensors, local_checkpoint, refused_by_name
from counterpoise.modeling.weight_sources import ClassTable

#: Key under which a checkpoint keeps it.
RECORD_KEY = "counterpoise"


class TrainingRecord:
    """Classes, counts and weights of a training run; travels in its checkpoints.

    It is a checkpointable in fvcore's sense.
    """

    def __init__(self, table: ClassTable) -> None:
        self.table = table

    def state_dict(self) -> dict[str, Any]:
        """Plain lists: ``class_names``, ``images``, ``boxes`` (K) and ``weights`` (K + 1 or [])."""
        counts, weights = self.table.counts, self.table.weights
        return {
            "class_names": list(counts.names),
            "images": list(counts.images),
            "boxes": list(counts.boxes),
            "weights": [] if weights is None else weights.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Leave the record as it is: a resumed run compares it before it loads anything."""


def is_record(value: Any) -> bool:
    """Whether a value of a checkpoint is such a record, and not a stranger's of the same key."""
    if not isinstance(value, Mapping):
        return False
    names, images, boxes = (value.get(key) for key in ("class_names", "images", "boxes"))
    return (
        all(isinstance(each, list) for each in (names, images, boxes, value.get("weights")))
        and len(names) == len(images) == len(boxes)
        and all(isinstance(name, str) for name in names)
        and all(isinstance(count, int) for count in (*images, *boxes))
    )


def counts_of(state: Mapping[str, Any]) -> ClassCounts:
    """Counts in a checkpoint's record."""
    return ClassCounts(tuple(state["class_names"]), tuple(state["images"]), tuple(state["boxes"]))


def describe_difference(before: ClassCounts, now: ClassCounts) -> str:
    """Say how two training sets differ in class names or counts; empty where they do not."""
    if before.names != now.names:
        return (
            f"the checkpoint has the classes [{', '.join(before.names)}], the data "
            f"[{', '.join(now.names)}]"
        )
    changed = [
        f"{name} had {old_boxes} boxes in {old_images} images and now has {boxes} in {images}"
        for name, old_images, images, old_boxes, boxes in zip(
            now.names, before.images, now.images, before.boxes, now.boxes, strict=True
        )
        if (old_images, old_boxes) != (images, boxes)
    ]
    return "; ".join(changed)


def read_training_record(path: str) -> dict[str, Any] | None:
    """Read the training record of a checkpoint file; None where it has none.

    Raises:
        UserError: the file is missing or is not a checkpoint.
    """
    if not path or not path.endswith(".pth"):
        return None
    local = local_checkpoint(path)
    with refused_by_name(f"MODEL.WEIGHTS {path}"):
        content = load_tensors(local)
    record = content.get(RECORD_KEY) if isinstance(content, dict) else None
    return record if is_record(record) else None
