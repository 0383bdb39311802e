"""Pascal VOC: layouts, coordinates, and every kind of invalid annotation."""

import random
from pathlib import Path

import pytest
from PIL import Image

from counterpoise.datasets import InvalidKind as Kind
from counterpoise.datasets import parse_specs, read_class_names
from counterpoise.datasets.loading import Part, Source
from counterpoise.errors import UserError

CLASSES = ("rbc", "wbc")


def box_xml(name: str = "rbc", box: tuple = (2, 3, 10, 12), extra: str = "") -> str:
    tags = "".join(
        f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name>{extra}<bndbox>{tags}</bndbox></object>"


def xml(*objects: str, file_name: str = "", size: tuple = (40, 30)) -> str:
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    objects = objects or (box_xml(),)
    return f"<annotation><filename>{file_name}</filename>{stated}{''.join(objects)}</annotation>"


def write(root: Path, name: str, content: str | bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def picture(root: Path, name: str, size: tuple[int, int] = (40, 30)) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 90).save(path)
    return path


def load(root: Path, mode: str = "skip", classes: tuple | None = CLASSES, **keys: object) -> Part:
    node = {"FORMAT": "voc", "IMAGES": str(root / "img"), "ANNOTATIONS": str(root / "xml"), **keys}
    return Source(parse_specs({"cells": node})["cells"], classes, mode).parts["cells"]


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """One valid image, ``good``, with one box."""
    picture(tmp_path, "img/good.jpg")
    write(tmp_path, "xml/good.xml", xml(file_name="good.jpg"))
    return tmp_path


def test_of_images_with_one_name_that_in_the_folder_of_the_xml_is_taken(tmp_path: Path):
    for folder in ("front", "back"):
        picture(tmp_path, f"img/{folder}/{folder}.jpg")
        picture(tmp_path, f"img/{folder}/001.jpg")
    write(tmp_path, "xml/back/001.xml", xml())
    (record,) = load(tmp_path).dicts
    assert record["file_name"] == str(tmp_path / "img" / "back" / "001.jpg")


def test_a_record_becomes_a_detectron2_dict_of_plain_types(voc: Path):
    (record,) = load(voc).dicts
    assert record == {
        "file_name": str(voc / "img" / "good.jpg"),
        "height": 30,
        "width": 40,
        "image_id": "good",
        "annotations": [
            {
                "bbox": [1.0, 2.0, 10.0, 12.0],  # counted from 1 in the file
                "bbox_mode": 0,
                "category_id": 0,
                "iscrowd": 0,
                "difficult": 0,
            }
        ],
    }
    assert type(record["annotations"][0]["bbox_mode"]) is int


def test_a_box_of_the_whole_image_is_not_clipped(voc: Path):
    write(voc, "xml/good.xml", xml(box_xml(box=(1, 1, 40, 30))))
    part = load(voc)
    assert part.dicts[0]["annotations"][0]["bbox"] == [0, 0, 40, 30]
    assert part.report.clipped == 0


@pytest.mark.parametrize(
    "written, bbox",
    [
        ((5, 5, 5, 9), [4, 4, 5, 9]),
        ((5, 5, 9, 5), [4, 4, 9, 5]),
        ((40, 1, 40, 30), [39, 0, 40, 30]),
    ],
)
def test_coordinates_are_inclusive_so_that_equal_ones_are_one_pixel(
    voc: Path, written: tuple, bbox: list
):
    write(voc, "xml/good.xml", xml(box_xml(box=written)))
    part = load(voc, "refuse")
    assert part.dicts[0]["annotations"][0]["bbox"] == bbox and part.report.clipped == 0


def test_a_box_partly_outside_is_clipped_and_counted(voc: Path):
    write(voc, "xml/good.xml", xml(box_xml(box=(-4, 3.5, 55, 12))))
    part = load(voc)
    assert part.dicts[0]["annotations"][0]["bbox"] == [0, 2.5, 40, 12]
    assert part.report.clipped == 1 and not part.report.invalid_annotations
    assert "1 box partly outside" in part.report.summary()


def test_difficult_is_kept(voc: Path):
    write(voc, "xml/good.xml", xml(box_xml(extra="<difficult>1</difficult>"), box_xml()))
    part = load(voc)
    assert [a["difficult"] for a in part.dicts[0]["annotations"]] == [1, 0]
    assert "1 box is marked difficult" in part.report.summary()


@pytest.mark.parametrize(
    "image, file_name",
    [
        ("img/deep/down/a.PNG", "gone.jpg"),  # by the stem, whatever <filename> says
        ("img/a.bmp", ""),
        ("img/other.jpg", "other.jpg"),  # by <filename>
        ("img/other.png", "C:\\pics\\other.jpg"),  # by its stem
        ("img/x.rf.1c09.jpg", "x.rf.1c09"),  # a dot in the stem is no extension
    ],
)
def test_the_image_is_found_by_stem_or_filename(voc: Path, image: str, file_name: str):
    picture(voc, image)
    write(voc, "xml/sub/a.xml", xml(file_name=file_name))
    part = load(voc)
    assert str(voc / image) in [d["file_name"] for d in part.dicts]
    assert not part.report.invalid_annotations


def test_a_stale_filename_is_noted_and_the_stem_wins(voc: Path):
    picture(voc, "img/a.jpg")
    write(voc, "xml/a.xml", xml(file_name="good.jpg"))
    part = load(voc)
    assert [Path(d["file_name"]).stem for d in part.dicts] == ["a", "good"]
    assert "than the one of their own name, which was taken: 1" in part.report.summary()


def test_images_without_xml_are_noted_unless_a_split_leaves_them_out(voc: Path):
    picture(voc, "img/extra.jpg")
    assert "without a usable XML, not in the set: 1" in load(voc).report.summary()
    split = write(voc, "split.txt", "good")
    assert "usable XML" not in load(voc, SPLIT_FILE=str(split)).report.summary()


@pytest.mark.parametrize("size", [(0, 0), ()])
def test_a_size_that_is_not_stated_is_read_from_the_image(voc: Path, size: tuple):
    write(voc, "xml/good.xml", xml(size=size))
    assert load(voc).dicts[0]["width"] == 40


def test_the_split_file_tolerates_what_people_write(voc: Path):
    for stem in ("a", "b c", "d", "left out"):
        picture(voc, f"img/{stem}.jpg")
        write(voc, f"xml/{stem}.xml", xml())
    lines = "\ufeffgood.jpg  1\r\n\r\nsub/a.xml\r\n b c \r\nd -1\r\n"
    split = write(voc, "split.txt", lines)
    part = load(voc, SPLIT_FILE=str(split))
    assert [d["image_id"] for d in part.dicts] == ["good", "a", "b c", "d"]
    assert not part.report.invalid_annotations


def test_images_of_one_name_in_several_folders_are_told_apart(voc: Path):
    for place in ("north/x", "south/x"):
        picture(voc, f"img/{place}.jpg")
        write(voc, f"xml/{place}.xml", xml())
    assert [d["image_id"] for d in load(voc).dicts] == ["good", "north/x", "south/x"]
    split = write(voc, "split.txt", "JPEGImages/south/x.jpg\n")
    (record,) = load(voc, SPLIT_FILE=str(split)).dicts
    assert record["image_id"] == "south/x" and record["file_name"].endswith("south/x.jpg")
    write(voc, "split.txt", "x\n")
    assert len(load(voc, SPLIT_FILE=str(split)).dicts) == 2


def test_hidden_copies_are_left_out(voc: Path):
    picture(voc, "img/.ipynb_checkpoints/good.jpg")
    write(voc, "xml/._good.xml", b"\x00\x05\x16\x07")
    assert load(voc).report.images == 1


def test_own_classes_are_the_sorted_names_of_the_xmls(voc: Path):
    write(voc, "xml/good.xml", xml(box_xml(" wbc "), box_xml("platelet")))
    node = {"FORMAT": "voc", "IMAGES": str(voc / "img"), "ANNOTATIONS": str(voc / "xml")}
    assert read_class_names(parse_specs({"c": node})["c"]) == ["platelet", "wbc"]
    part = load(voc, classes=None)
    assert [a["category_id"] for a in part.dicts[0]["annotations"]] == [1, 0]
    given = parse_specs({"c": {**node, "CLASSES": ["wbc"]}})["c"]
    assert read_class_names(given) == ["wbc"]


BOMB = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]>' + xml(box_xml("&c;"))

# What is written beside the valid image; then the kind, the place and the reason reported, and
# the numbers of images and boxes that are kept.
BAD = {
    "click": (box_xml(box=(5, 5, 5, 5)), Kind.ZERO_SIZE, "bad.xml, object 2", "x 5 to 5", 2, 2),
    "just inverted": (box_xml(box=(5.5, 5, 5, 9)), Kind.ZERO_SIZE, "object 2", "5.5 to 5", 2, 2),
    "inverted": (box_xml(box=(9, 5, 5, 9)), Kind.ZERO_SIZE, "bad.xml, object 2", "9 to 5", 2, 2),
    "outside": (box_xml(box=(50, 1, 60, 9)), Kind.OUTSIDE, "object 2", "image of 40 x 30", 2, 2),
    "nan": (box_xml(box=("nan", 1, 6, 9)), Kind.NOT_FINITE, "object 2", "nan", 2, 2),
    "infinite": (box_xml(box=(1, 1, "1e999", 9)), Kind.NOT_FINITE, "object 2", "inf", 2, 2),
    "no number": (box_xml(box=("a", 1, 6, 9)), Kind.UNREADABLE_OBJECT, "object 2", "xmin", 2, 2),
    "no box": ("<object><name>rbc</name></object>", Kind.UNREADABLE_OBJECT, "2", "xmin", 2, 2),
    "no name": (box_xml(" "), Kind.UNREADABLE_OBJECT, "object 2", "no <name>", 2, 2),
    "class": (box_xml("cat"), Kind.UNKNOWN_CLASS, "object 2", "but the class list is [rbc", 2, 2),
    "case": (box_xml("RBC"), Kind.UNKNOWN_CLASS, "object 2", "the class list has 'rbc'", 2, 2),
    "malformed": ("<object>", Kind.UNREADABLE_FILE, "bad.xml", "mismatched tag", 1, 1),
}


@pytest.mark.parametrize("mode", ["skip", "refuse"])
@pytest.mark.parametrize("case", BAD)
def test_an_invalid_object_is_reported_and_left_out_or_refused(voc: Path, case: str, mode: str):
    added, kind, where, reason, images, boxes = BAD[case]
    picture(voc, "img/bad.jpg")
    write(voc, "xml/bad.xml", xml(box_xml(), added))
    check_outcome(voc, mode, kind, where, reason, images, boxes)


FILES = {
    "incomplete": (xml()[:60], Kind.UNREADABLE_FILE, "no well-formed XML"),
    "empty": ("", Kind.UNREADABLE_FILE, "no element found"),
    "other root": ("<html/>", Kind.UNREADABLE_FILE, "<html>"),
    "entities": (BOMB, Kind.UNREADABLE_FILE, "declares an XML entity"),
    "entities in Latin-1": (
        b"<?xml version='1.0' encoding='iso-8859-1'?>" + BOMB.encode(),
        Kind.UNREADABLE_FILE,
        "declares an XML entity",
    ),
    "entities in EBCDIC": (  # whose bytes do not look like a DOCTYPE
        b'<?xml version="1.0" encoding="cp037"?>' + BOMB.encode("cp037"),
        Kind.UNREADABLE_FILE,
        "no well-formed XML: unknown encoding",
    ),
    "entities in UTF-16": (BOMB.encode("utf-16"), Kind.UNREADABLE_FILE, "declares an XML entity"),
    "wrong size": (xml(size=(30, 40)), Kind.OTHER_SIZE, "stated 30 x 40, but bad.jpg is 40 x 30"),
    "size in words": (xml(size=("wide", 3)), Kind.UNREADABLE_FILE, "'wide', expected a number"),
    "infinite size": (xml(size=("inf", 3)), Kind.UNREADABLE_FILE, "inf x 3"),
}


@pytest.mark.parametrize("mode", ["skip", "refuse"])
@pytest.mark.parametrize("case", FILES)
def test_an_invalid_file_is_reported_and_left_out_or_refused(voc: Path, case: str, mode: str):
    content, kind, reason = FILES[case]
    picture(voc, "img/bad.jpg")
    write(voc, "xml/bad.xml", content)
    check_outcome(voc, mode, kind, "bad.xml", reason, 1, 1)


@pytest.mark.parametrize("mode", ["skip", "refuse"])
def test_invalid_images_are_reported_and_left_out_or_refused(voc: Path, mode: str):
    write(voc, "xml/bad.xml", xml())
    check_outcome(voc, mode, Kind.NO_IMAGE, "bad.xml", "there is no", 1, 1)
    path = picture(voc, "img/bad.jpg")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    check_outcome(voc, mode, Kind.UNREADABLE_IMAGE, "bad.xml", "truncated", 1, 1)
    path.write_bytes(b"no image at all")
    check_outcome(voc, mode, Kind.UNREADABLE_IMAGE, "bad.xml", "cannot identify", 1, 1)
    path.unlink()
    picture(voc, "img/1/bad.jpg"), picture(voc, "img/2/bad.jpg")
    check_outcome(voc, mode, Kind.AMBIGUOUS_IMAGE, "bad.xml", "1/bad.jpg, 2/bad.jpg", 1, 1)


@pytest.mark.parametrize("mode", ["skip", "refuse"])
def test_a_stem_without_xml_and_one_listed_twice_are_invalid(voc: Path, mode: str):
    split = str(write(voc, "split.txt", "good\nghost\n"))
    reason = "'ghost' is listed"
    check_outcome(voc, mode, Kind.NO_ANNOTATION_FILE, "split.txt:2", reason, 1, 1, SPLIT_FILE=split)
    write(voc, "split.txt", "good\ngood\n")
    check_outcome(
        voc, mode, Kind.DUPLICATE_IMAGE, "good.xml", "used before", 1, 1, SPLIT_FILE=split
    )


def check_outcome(
    root: Path, mode: str, kind: Kind, where: str, reason: str, images: int, boxes: int, **keys: str
) -> None:
    if mode == "refuse":
        with pytest.raises(UserError, match=r"DATASETS\.BAD_RECORDS") as error:
            load(root, mode, **keys)
        told = str(error.value)
        assert "1 invalid annotation:" in told and kind in told
    else:
        part = load(root, mode, **keys)
        (entry,) = part.report.invalid_annotations
        assert entry.kind is kind
        told = part.report.summary()
        assert f"{kind}: 1" in told
        assert (part.report.images, part.report.boxes) == (images, boxes)
        assert sum(len(d["annotations"]) for d in part.dicts) == boxes
    assert where in told and reason in told


@pytest.mark.parametrize("key", ["IMAGES", "ANNOTATIONS", "SPLIT_FILE"])
def test_a_missing_root_is_refused_with_its_key(voc: Path, key: str):
    with pytest.raises(UserError, match=rf"DATASETS\.CUSTOM\.cells\.{key}.*not there"):
        load(voc, **{key: str(voc / "nowhere")})


def test_a_dataset_without_any_image_is_refused_with_the_cause(voc: Path):
    (voc / "img" / "good.jpg").unlink()
    with pytest.raises(UserError, match=r"no usable image.*image missing in good\.xml"):
        load(voc)
    (voc / "xml" / "good.xml").unlink()
    with pytest.raises(UserError, match="no usable image in"):
        load(voc)
    with pytest.raises(UserError, match=r"defines no class.*CLASSES"):
        load(voc, classes=None)


def test_a_damaged_xml_never_raises_anything_but_a_user_error(voc: Path):
    whole = xml(box_xml(), box_xml("wbc"), file_name="good.jpg").encode()
    rng = random.Random(3)
    for cut in rng.sample(range(len(whole)), 60):
        damaged = bytearray(whole[:cut] if cut % 2 else whole)
        damaged[cut - 1] = rng.randrange(256)
        write(voc, "xml/good.xml", bytes(damaged))
        try:
            load(voc)
        except UserError:
            continue
