"""YOLO: where a split is found, what a line means, and every kind of invalid annotation."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from counterpoise.datasets import InvalidKind as Kind
from counterpoise.datasets import parse_specs, read_class_names
from counterpoise.datasets.loading import Part, Source
from counterpoise.errors import UserError

LINE = "1 0.5 0.5 0.25 0.5\n"


def add(root: Path, image: str, label: str | None = None, text: str = LINE) -> None:
    """Write an image of 40 x 20 and its label file, by default where YOLO expects it."""
    path = root / image
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20)).save(path)
    label = label or str(Path(image.replace("images", "labels")).with_suffix(".txt"))
    (root / label).parent.mkdir(parents=True, exist_ok=True)
    (root / label).write_text(text)


def load(node: dict, mode: str = "skip", classes: tuple | None = None) -> Part:
    return Source(parse_specs({"sea": {"FORMAT": "yolo", **node}})["sea"], classes, mode).parts[
        "sea"
    ]


def from_yaml(root: Path, content: str, split: str = "train", mode: str = "skip") -> Part:
    (root / "data.yaml").write_text(f"names: [fish, crab]\n{content}")
    return load({"DATA_YAML": str(root / "data.yaml"), "SPLIT": split}, mode)


def from_folders(root: Path, mode: str = "skip", **keys: object) -> Part:
    node = {"IMAGES": str(root / "images"), "ANNOTATIONS": str(root / "labels")}
    return load({**node, "CLASSES": ["fish", "crab"], **keys}, mode)


def ids(part: Part) -> list[str]:
    return [d["image_id"] for d in part.dicts]


def test_fractions_become_pixels(tmp_path: Path):
    add(tmp_path, "images/a.jpg")
    (record,) = from_folders(tmp_path).dicts
    assert record["annotations"] == [
        {"bbox": [15.0, 5.0, 25.0, 15.0], "bbox_mode": 0, "category_id": 1, "iscrowd": 0}
    ]
    assert (record["height"], record["width"], record["image_id"]) == (20, 40, "a")


@pytest.mark.parametrize(
    "line, bbox, clipped",
    [
        ("1 0.1 0.1 0.2 0.4", [0, 0, 8, 6], 1),
        ("1 0.05 0.5 0.100001 1", [0, 0, 4, 20], 0),  # rounding is no overhang
        ("1.0 0.5 0.5 1 1", [0, 0, 40, 20], 0),
        ("1 0.1 0.2 0.5 0.1 0.3 0.9", [4, 2, 20, 18], 0),  # a polygon's bounding box
        ("1 0.1 0.2 0.5 0.1 0.3 0.9 -0.5 0.3", [0, 2, 20, 18], 1),
    ],
)
def test_a_line_becomes_a_box_within_the_image(tmp_path: Path, line: str, bbox: list, clipped: int):
    add(tmp_path, "images/a.jpg", text=line)
    part = from_folders(tmp_path)
    assert part.dicts[0]["annotations"][0]["bbox"] == pytest.approx(bbox, abs=1e-3)
    assert part.report.clipped == clipped and not part.report.invalid_annotations


@pytest.mark.parametrize("shape, line", [("[2, 2]", " 0.1 0.1 0.9 0.9"), ("[1, 3]", " 0.1 0.1 2")])
def test_keypoints_behind_a_box_are_no_polygon(tmp_path: Path, shape: str, line: str):
    add(tmp_path, "train/images/a.jpg", text=LINE.strip() + line)
    add(tmp_path, "train/images/b.jpg")
    part = from_yaml(tmp_path, f"train: train/images\nkpt_shape: {shape}")
    assert [d["annotations"][0]["bbox"] for d in part.dicts] == [[15, 5, 25, 15]] * 2
    assert not part.report.invalid_annotations


def test_another_number_of_keypoints_than_stated_is_named(tmp_path: Path):
    add(tmp_path, "train/images/a.jpg", text="1 0.1 0.2 0.5 0.1 0.3 0.9")
    part = from_yaml(tmp_path, "train: train/images\nkpt_shape: [2, 2]")
    assert "7 columns, expected class cx cy w h and the 4 of kpt_shape" in part.report.summary()
    with pytest.raises(UserError, match=r"'kpt_shape' in .* is 3, expected"):
        from_yaml(tmp_path, "train: train/images\nkpt_shape: 3")


def test_a_readme_is_a_label_where_an_image_is_called_so(tmp_path: Path):
    add(tmp_path, "images/readme_01.jpg")
    add(tmp_path, "images/a.jpg")
    (tmp_path / "labels" / "README.txt").write_text("exported by a tool")
    part = from_folders(tmp_path)
    assert [len(record["annotations"]) for record in part.dicts] == [1, 1]
    assert not part.report.invalid_annotations


def test_images_without_labels_are_background(tmp_path: Path):
    for name, text in (("a", LINE), ("blank", "\n \n"), ("none", "")):
        add(tmp_path, f"images/{name}.jpg", text=text)
    (tmp_path / "labels" / "none.txt").unlink()
    part = from_folders(tmp_path)
    assert [len(d["annotations"]) for d in part.dicts] == [1, 0, 0]
    assert (
        "2 images without boxes (a training leaves them out with DATALOADER.FILTER_"
        in part.report.summary()
    )


# The yaml beside the folders, and the images (with labels where YOLO expects them).
LAYOUTS = {
    "as written": ("train: train/images", "train/images/a.jpg"),
    "exported one folder deeper": ("train: ../train/images", "train/images/a.jpg"),
    "path": ("path: root\ntrain: images/train", "root/images/train/a.jpg"),
    "path with Windows separators": ("path: .\\root\ntrain: images", "root/images/a.jpg"),
    "path of another machine": ("path: /content/x\ntrain: images/train", "images/train/a.jpg"),
    "not named": ("", "train/images/a.jpg"),
    "not named, split below images": ("train:", "images/train/a.jpg"),
    "folder above images": ("train: ./train", "train/images/a.jpg"),
    "Windows separators": ("train: .\\train\\images", "train/images/a.jpg"),
    "list of places": ("train: [one/images, two/images]", "two/images/a.jpg"),
    "one image": ("train: some/images/a.jpg", "some/images/a.jpg"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_the_split_is_found(tmp_path: Path, case: str):
    content, image = LAYOUTS[case]
    (tmp_path / "one" / "images").mkdir(parents=True)
    (tmp_path / "one" / "labels").mkdir()
    add(tmp_path, image)
    part = from_yaml(tmp_path, content)
    assert [d["file_name"] for d in part.dicts] == [str(tmp_path / image)]
    assert part.report.boxes == 1 and not part.report.invalid_annotations


# As above, for paths of another machine.
MOVED = {
    "Windows drive": ("train: D:/yolo/data/train/images", "train/images/a.jpg"),
    "backslashes": ("train: 'D:\\yolo\\train\\images'", "train/images/a.jpg"),
    "network drive": ("train: '\\\\host\\share\\train\\images'", "train/images/a.jpg"),
    "container": ("train: /content/sea/train/images", "train/images/a.jpg"),
    "home": ("train: ~/sea/images/train", "images/train/a.jpg"),
    "the longest part": ("train: /x/sea/train/images", "sea/train/images/a.jpg"),
    "folder that path names": ("path: sub\ntrain: /x/train/images", "sub/train/images/a.jpg"),
    "beside the yaml": ("path: sub\ntrain: /x/train/images", "train/images/a.jpg"),
    "end of path": ("path: D:/data/sea\ntrain: train/images", "sea/train/images/a.jpg"),
    "upward": ("train: ../../sea/train/images", "train/images/a.jpg"),
    "drive and upward": ("train: D:/sea/../train/images", "train/images/a.jpg"),
    "one image": ("train: C:/pics/images/a.jpg", "images/a.jpg"),
    "list of places": ("train: ['E:/one/images', /x/two/images]", "two/images/a.jpg"),
    "val like train": ("train: /x/train/images\nval: /x/train/images", "train/images/a.jpg"),
}


@pytest.mark.parametrize("case", MOVED)
def test_a_path_of_another_machine_leads_to_its_longest_part_beside_the_yaml(
    tmp_path: Path, case: str
):
    content, image = MOVED[case]
    root = tmp_path / "deep" / "root"
    for folder in ("one/images", "one/labels", "sub"):
        (root / folder).mkdir(parents=True)
    add(root, image)
    if case == "the longest part":
        add(root, "train/images/b.jpg")
    part = from_yaml(root, content)
    assert [d["file_name"] for d in part.dicts] == [str(root / image)]
    assert part.report.boxes == 1 and not part.report.invalid_annotations
    assert part.report.notes and all("not on this machine" in note for note in part.report.notes)


def test_what_exists_as_written_is_taken_without_a_notice(tmp_path: Path):
    add(tmp_path / "elsewhere", "train/images/a.jpg")
    add(tmp_path / "root", "train/images/b.jpg")
    part = from_yaml(tmp_path / "root", f"train: {tmp_path}/elsewhere/train/images")
    assert ids(part) == ["a"] and not part.report.notes


@pytest.mark.parametrize(
    "content, image",
    [
        ("train: /x/sea/../images", "sea/images/a.jpg"),  # not through what lies before ..
        ("train: /x/sea/..", "sea/images/a.jpg"),  # nor upward
        ("train: D:/x/train/images\nval: D:/x/valid/images", "images/a.jpg"),  # of which split?
        ("train: D:/", "images/a.jpg"),
    ],
)
def test_a_trailing_part_never_leads_upward_or_to_another_split(
    tmp_path: Path, content: str, image: str
):
    add(tmp_path / "root", image)
    with pytest.raises(UserError, match=r"leads nowhere \(tried .* and every trailing part"):
        from_yaml(tmp_path / "root", content)


def test_lists_of_another_machine_are_followed_with_a_notice_each(tmp_path: Path):
    for name in "abc":
        add(tmp_path, f"pics/images/{name}.jpg")
    (tmp_path / "lists").mkdir()
    lines = ["D:\\x\\pics\\images\\a.jpg", "/content/x/pics/images/b.jpg", "pics/images/c.jpg"]
    (tmp_path / "lists" / "train.txt").write_text("\n".join([*lines, "/content/gone.jpg"]))
    part = from_yaml(tmp_path, "train: /content/sea/lists/train.txt")
    assert ids(part) == [f"pics/images/{name}" for name in "abc"] and part.report.boxes == 3
    assert [a.kind for a in part.report.invalid_annotations] == [Kind.NO_IMAGE]
    listing, images = part.report.notes
    assert "lists/train.txt is taken for it" in listing
    assert images.endswith("not on this machine, found by the trailing part of them: 2")


@pytest.mark.parametrize("split", ["val", "valid", "validation"])
@pytest.mark.parametrize("written", ["val: valid/images", "valid: valid/images", ""])
def test_val_and_valid_are_the_same_split(tmp_path: Path, split: str, written: str):
    add(tmp_path, "valid/images/a.jpg")
    assert ids(from_yaml(tmp_path, written, split)) == ["a"]


def test_a_label_may_lie_beside_its_image(tmp_path: Path):
    add(tmp_path, "train/a.jpg", "train/a.txt")
    (tmp_path / "train" / "classes.txt").write_text("fish\ncrab\n")
    part = from_yaml(tmp_path, "train: train")
    assert part.report.boxes == 1 and not part.report.invalid_annotations


def test_a_list_of_images_is_followed_and_its_missing_ones_reported(tmp_path: Path):
    add(tmp_path, "pics/images/a.jpg")
    add(tmp_path, "pics/images/b.jpg")
    (tmp_path / "lists").mkdir()
    entries = f"pics/images/a.jpg\r\n{tmp_path}/pics/images/b.jpg\n\n./gone.jpg\n/\n"
    (tmp_path / "lists" / "train.txt").write_text(entries)
    part = from_yaml(tmp_path, "train: lists/train.txt")
    assert ids(part) == ["pics/images/a", "pics/images/b"] and part.report.boxes == 2
    assert [f.kind for f in part.report.invalid_annotations] == [Kind.NO_IMAGE] * 2


def test_ids_keep_the_sub_folder(tmp_path: Path):
    add(tmp_path, "images/x/a.rf.1.jpg")
    add(tmp_path, "images/y/a.rf.1.jpg")
    assert ids(from_folders(tmp_path)) == ["x/a.rf.1", "y/a.rf.1"]


def test_classes_txt_numbers_the_classes_and_classes_orders_them(tmp_path: Path):
    add(tmp_path, "images/a.jpg")
    (tmp_path / "labels" / "classes.txt").write_text("crab\nfish\n")
    part = from_folders(tmp_path)  # index 1 is fish, which CLASSES puts first
    assert part.dicts[0]["annotations"][0]["category_id"] == 0


@pytest.mark.parametrize(
    "names", ["[fish, 'no']", "{0: fish, 1: no_}", "{'1': x, '0': fish}", "[fish, 7]"]
)
def test_names_are_read_by_index(tmp_path: Path, names: str):
    (tmp_path / "data.yaml").write_text(f"nc: 2\nnames: {names}")
    node = {"FORMAT": "yolo", "DATA_YAML": str(tmp_path / "data.yaml"), "SPLIT": "val"}
    assert read_class_names(parse_specs({"sea": node})["sea"])[0] == "fish"


# Nested aliases: ten lines that print as a billion words.
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]\n"
    for last, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "content, says",
    [
        ("names: [a, b]\nnc: 3", "nc: 3"),
        ("names: {0: a, 2: b}", "1 is missing"),
        ("names: {0: a, '0': b}", "without gaps"),
        ("names: [a, a]", "twice"),
        ("names: [yes]", "put it in quotes"),
        ("names: []", "is empty"),
        ("names: fish", "must be a list"),
        ("train: x", "must be a list"),
        ("- a", "must be a mapping"),
        ("names: [a", "not readable YAML"),
        ("[" * 1000, "not readable YAML"),
        ("!!python/object/apply:os.getcwd []", "not readable YAML"),
        (f"{BOMB}names: *i", r"holds 9.3e\+08 values"),
        (f"{BOMB}names: [a]\ntrain: *i", r"holds 9.3e\+08 values"),
        ("names: [a]\ntrain: nowhere", "leads nowhere"),
        ("names: [a]\ntrain: [3]", "expected a path"),
        ("names: [a]\nval: x", "does not name it"),
    ],
)
def test_an_invalid_data_yaml_is_refused(tmp_path: Path, content: str, says: str):
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(UserError, match=says) as error:
        load({"DATA_YAML": str(tmp_path / "data.yaml"), "SPLIT": "train"})
    assert "data.yaml" in str(error.value)


def test_a_misspelt_split_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="did you mean 'train'"):
        from_yaml(tmp_path, "train: x", split="trian")


def test_missing_folders_and_class_lists_are_refused(tmp_path: Path):
    add(tmp_path, "images/a.jpg")
    with pytest.raises(UserError, match=r"no class list.*CLASSES"):
        from_folders(tmp_path, CLASSES=[])
    with pytest.raises(UserError, match=r"DATASETS\.CUSTOM\.sea\.ANNOTATIONS.*not there"):
        from_folders(tmp_path, ANNOTATIONS=str(tmp_path / "gone"))
    with pytest.raises(UserError, match="no usable image"):
        from_folders(tmp_path, IMAGES=str(tmp_path / "labels"))
    add(tmp_path, "train/images/a.jpg", "elsewhere/a.txt")
    with pytest.raises(UserError, match="has no labels"):
        from_yaml(tmp_path, "train: train/images")


BAD = {
    "zero size": ("0 0.5 0.5 0 0", Kind.ZERO_SIZE, "x 0.5 to 0.5"),
    "negative size": ("0 0.5 0.5 -0.1 0.1", Kind.ZERO_SIZE, "x 0.55 to 0.45"),
    "outside": ("0 1.5 0.5 0.2 0.2", Kind.OUTSIDE, "in an image of 40 x 20"),
    "pixels": ("0 100 100 20 20", Kind.OUTSIDE, "x 90 to 110"),
    "infinite": ("0 0.5 0.5 inf 0.1", Kind.NOT_FINITE, "inf"),
    "NaN": ("0 nan 0.5 0.1 0.1", Kind.UNREADABLE_OBJECT, "NaN"),
    "keypoints without kpt_shape": (
        "0 .3 .3 .1 .1 .28 .28 2 .32 .31 2",
        Kind.UNREADABLE_OBJECT,
        "state kpt_shape in DATA_YAML",
    ),
    "NaN in a polygon": ("0 0.1 0.2 0.5 0.1 nan 0.9", Kind.UNREADABLE_OBJECT, "NaN"),
    "word": ("0 0.5 a 0.1 0.1", Kind.UNREADABLE_OBJECT, "'a'"),
    "too few": ("0 0.5 0.5 0.1", Kind.UNREADABLE_OBJECT, "4 columns"),
    "confidence": ("0 0.5 0.5 0.1 0.1 0.9", Kind.UNREADABLE_OBJECT, "confidence"),
    "half a point": ("0 0 0 1 1 0 1 1", Kind.UNREADABLE_OBJECT, "8 columns"),
    "half a class": ("0.5 0.5 0.5 0.1 0.1", Kind.UNREADABLE_OBJECT, "not a whole number"),
    "class too high": ("2 0.5 0.5 0.1 0.1", Kind.UNKNOWN_CLASS, "classes are 0 to 1"),
    "negative class": ("-1 0.5 0.5 0.1 0.1", Kind.UNKNOWN_CLASS, "class index -1"),
}


@pytest.mark.parametrize("mode", ["skip", "refuse"])
@pytest.mark.parametrize("case", BAD)
def test_an_invalid_line_is_reported_and_left_out_or_refused(tmp_path: Path, case: str, mode: str):
    line, kind, reason = BAD[case]
    add(tmp_path, "images/a.jpg", text=f"{LINE}{line}\n{LINE}")
    check_outcome(tmp_path, mode, kind, "labels/a.txt:2", reason, images=1, boxes=2)


@pytest.mark.parametrize("mode", ["skip", "refuse"])
def test_invalid_files_are_reported_and_left_out_or_refused(tmp_path: Path, mode: str):
    add(tmp_path, "images/a.jpg")
    stray = tmp_path / "labels" / "b.txt"
    stray.write_text(LINE)
    check_outcome(tmp_path, mode, Kind.LABEL_WITHOUT_IMAGE, "labels/b.txt", "'b'", 1, 1)
    stray.unlink()
    add(tmp_path, "images/a.png")
    check_outcome(tmp_path, mode, Kind.DUPLICATE_IMAGE, "images/a.png", "images/a.jpg", 1, 1)
    (tmp_path / "images" / "a.png").unlink()
    add(tmp_path, "images/c.jpg")
    (tmp_path / "labels" / "c.txt").write_bytes(b"\xff\xfe0 \x00")
    check_outcome(tmp_path, mode, Kind.UNREADABLE_FILE, "labels/c.txt", "utf-8", 1, 1)


@pytest.mark.parametrize("label, form", [
    ("labels/a.txt", from_folders),
    ("labels/sub/a.TXT", from_folders),
    ("images/labels/a.txt", lambda root: from_yaml(root, "train: images")),
])  # fmt: skip
def test_a_label_in_another_place_than_its_image_is_told_where_it_belongs(
    tmp_path: Path, label: str, form: Callable[[Path], Part]
):
    add(tmp_path, "images/sub/a.jpg", label)
    (tmp_path / "labels").mkdir(exist_ok=True)
    part = form(tmp_path)
    (found,) = part.report.invalid_annotations
    assert found.kind is Kind.LABEL_WITHOUT_IMAGE and found.where == label
    assert found.reason == "the labels of images/sub/a.jpg are looked for in labels/sub/a.txt"


def check_outcome(
    root: Path, mode: str, kind: Kind, where: str, reason: str, images: int, boxes: int
) -> None:
    if mode == "refuse":
        with pytest.raises(UserError, match=r"DATASETS\.BAD_RECORDS") as error:
            from_folders(root, mode)
        told = str(error.value)
    else:
        part = from_folders(root, mode)
        assert [f.kind for f in part.report.invalid_annotations] == [kind]
        assert (part.report.images, part.report.boxes) == (images, boxes)
        told = part.report.summary()
    assert kind in told and where in told and reason in told


def test_more_invalid_annotations_than_are_shown_are_counted(tmp_path: Path):
    add(tmp_path, "images/a.jpg", text=LINE + "0 0 0 0 0\n" * 8)
    report = from_folders(tmp_path).report
    assert len(report.invalid_annotations) == 8 and report.boxes == 1
    assert "8 invalid annotations, left out: 8 boxes\n" in report.summary()
    assert "... and 3 more" in report.summary() and "labels/a.txt:7" not in report.summary()
    with pytest.raises(UserError, match=r"8 invalid annotations.*; and 3 more"):
        from_folders(tmp_path, "refuse")


def test_damaged_text_never_raises_anything_but_a_user_error(tmp_path: Path):
    add(tmp_path, "train/images/a.jpg")
    label, data = tmp_path / "train/labels/a.txt", tmp_path / "data.yaml"
    texts = {label: LINE.encode() * 3, data: b"names: {0: fish, 1: crab}\ntrain: train/images\n"}
    node = {"DATA_YAML": str(data), "SPLIT": "train"}
    rng = random.Random(5)
    for path, whole in texts.items():
        for other, text in texts.items():
            other.write_bytes(text)
        for cut in range(len(whole)):
            damaged = bytearray(whole[:cut] if cut % 2 else whole)
            damaged[cut - 1] = rng.randrange(256)
            path.write_bytes(bytes(damaged))
            try:
                load(node)
            except UserError:
                continue
