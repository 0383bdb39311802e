"""YOLO: one txt per image, one line ``class cx cy w h`` per box in fractions of the image."""

import math
import os

from counterpoise.datasets.files import MAX_ANNOTATION_BYTES, Boundary
from counterpoise.datasets.invalid_annotations import InvalidKind
from counterpoise.datasets.records import Box, Coordinates, ImageRecord, RecordSet
from counterpoise.datasets.spec import DatasetSpec
from counterpoise.datasets.yolo_layout import expected_label, find_layout
from counterpoise.datasets.yolo_yaml import yolo_class_names, yolo_keypoint_columns
from counterpoise.utils.files import check_is_file

#: What follows the coordinates of a keypoint that can be seen.
VISIBLE = 2


def read_yolo(spec: DatasetSpec) -> RecordSet:
    """Parse the label files of the split. An image without a label file is background.

    Raises:
        UserError: a folder, list, split or class list is missing or unusable.
    """
    names = yolo_class_names(spec)
    keypoints = yolo_keypoint_columns(spec)
    layout = find_layout(spec)
    boundary = Boundary(() if spec.outside_files else layout.folders)
    records = RecordSet(
        source=", ".join(map(str, layout.places)),
        coordinates=Coordinates.FRACTIONS,
        place=_place,
        class_names=names,
        notes=layout.notes,
    )
    # Labels lie beside the folder of images, so messages name them from one folder above.
    message_root = (spec.data_yaml or spec.annotations).parent
    for image, label in layout.pairs:
        image_id = os.path.splitext(os.path.relpath(image, layout.root))[0].replace(os.sep, "/")
        record = ImageRecord(str(image), image_id, os.path.relpath(image, message_root))
        if os.path.isfile(image):  # else it is missing
            record.outside = boundary.why_outside(str(image))
        if label is not None and not record.outside:
            where = os.path.relpath(label, message_root)
            if outside := boundary.why_outside(str(label)):
                records.reject(InvalidKind.OUTSIDE_FILE, where, outside)
                continue
            try:
                check_is_file(label, MAX_ANNOTATION_BYTES)
                text = label.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                records.reject(InvalidKind.UNREADABLE_FILE, where, error)
                continue
            record.labels = where
            _add_objects(text, where, names, keypoints, records)
        records.images.append(record)
    of_stem = {image.stem: image for image, _ in layout.pairs} if layout.orphans else {}
    for label in layout.orphans:
        reason = f"no image has the stem {label.stem!r}"
        if image := of_stem.get(label.stem):
            image_name, wanted = (
                os.path.relpath(path, message_root) for path in (image, expected_label(image, spec))
            )
            reason = f"the labels of {image_name} are looked for in {wanted}"
        where = os.path.relpath(label, message_root)
        records.reject(InvalidKind.LABEL_WITHOUT_IMAGE, where, reason)
    return records


def _add_objects(
    text: str, where: str, names: tuple[str, ...], keypoints: int, records: RecordSet
) -> None:
    """Append the objects of a label file, as those of the next image of the set."""
    for number, line in enumerate(text.splitlines(), start=1):
        columns = line.split()
        if not columns:
            continue
        try:
            index, box = parse_line(columns, keypoints)
        except ValueError as error:
            records.reject(InvalidKind.UNREADABLE_OBJECT, f"{where}:{number}", error)
            continue
        if not 0 <= index < len(names):
            reason = f"class index {index}, but the {len(names)} classes are 0 to {len(names) - 1}"
            records.reject(InvalidKind.UNKNOWN_CLASS, f"{where}:{number}", reason)
            continue
        records.objects.add(len(records.images), names[index], box, number)


def _place(image: ImageRecord, number: int) -> str:
    return f"{image.labels}:{number}"


def parse_line(columns: list[str], keypoints: int = 0) -> tuple[int, Box]:
    """Parse the columns of one line into a class index and (x0, y0, x1, y1).

    Five columns are a box. An odd number of seven or more is the polygon of a segmentation label,
    of which the bounding box is taken. Six columns are refused, as by Ultralytics: the sixth would
    be the confidence of a prediction.

    Args:
        columns: of the line.
        keypoints: columns of keypoints after a box in this dataset, which are left out.

    Raises:
        ValueError: another number of columns, a column that is not a number, or a polygon far
            outside the image; the message says which.
    """
    if keypoints and len(columns) == 5 + keypoints:
        columns = columns[:5]
    count = len(columns)
    if keypoints and count != 5:
        raise ValueError(
            f"{count} columns, expected class cx cy w h and the {keypoints} of kpt_shape"
        )
    if count != 5 and (count < 7 or count % 2 == 0):
        confidence = " (is the sixth the confidence of a prediction?)" if count == 6 else ""
        raise ValueError(
            f"{count} columns{confidence}, expected class cx cy w h or class x1 y1 x2 y2 x3 y3 ..."
        )
    try:
        label, *values = map(float, columns)
    except ValueError as error:
        raise ValueError(f"{error}") from None
    if not label.is_integer():  # False for NaN and infinity as well
        raise ValueError(f"class index {columns[0]} is not a whole number")
    if count == 5:
        cx, cy, w, h = values
        box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
    else:
        if max(values) >= VISIBLE:
            raise ValueError(
                f"a polygon with the coordinate {max(values):g}, but they are shares of the image; "
                "if these are keypoints, state kpt_shape in DATA_YAML"
            )
        xs, ys = values[::2], values[1::2]
        box = (min(xs), min(ys), max(xs), max(ys))
    if any(map(math.isnan, values)):
        raise ValueError("a coordinate is NaN")
    return int(label), box
