"""Draw the demo's dataset: loose parts on a workbench, with a long-tailed class distribution.

Six classes of fasteners, from 840 washers to 14 split washers in training (60:1). What makes real
skewed data hard is here too: the rare classes differ from frequent ones by a detail (a split washer
is a washer with a cut, a square nut has four sides instead of six), all classes share materials and
sizes, other parts that look alike belong to no class, and objects overlap, turn, tilt and leave the
picture, on textured benches under uneven light. The test set is drawn in the same way but is less
skewed (200 to 36 boxes), so that the average precision of rare classes can be measured.

Everything follows from one seed. Usage: ``python demo/make_dataset.py OUT``
"""

import argparse
import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from counterpoise.errors import UserError, did_you_mean

WIDTH, HEIGHT = 320, 240
SUPERSAMPLING = 2  # scenes are drawn at twice the size and then averaged: smooth edges
MARKER = "recipe.json"
MAX_BOXES_PER_IMAGE = 12
MIN_VISIBLE = 0.7  # of an object's area; whatever would hide more is put elsewhere

Points = np.ndarray  # (n, 2) float, x to the right and y down


class Split(NamedTuple):
    """How many images one part of the dataset has, and how many boxes of each class."""

    images: int
    boxes: Mapping[str, int]


CLASSES = ("washer", "hex_nut", "wood_screw", "bolt", "square_nut", "split_washer")
SPLITS = {
    "train": Split(300, dict(zip(CLASSES, (840, 420, 260, 84, 32, 14), strict=True))),
    "test": Split(120, dict(zip(CLASSES, (200, 140, 100, 70, 44, 36), strict=True))),
}


@dataclass(frozen=True)
class DatasetPaths:
    """Where the dataset lies: COCO annotations, whose file names are relative to the images."""

    train_json: Path
    train_images: Path
    test_json: Path
    test_images: Path

    @classmethod
    def under(cls, root: Path) -> "DatasetPaths":
        """The paths of a dataset in the folder ``root``."""
        return cls(root / "train.json", root / "train", root / "test.json", root / "test")


def make_dataset(out: Path, seed: int = 0, splits: Mapping[str, Split] = SPLITS) -> DatasetPaths:
    """Draw the dataset into a folder, unless it is already there.

    Args:
        out: the folder to make. One that holds a complete set of the same recipe (this file, seed
            and splits) is kept as it is, another or incomplete set is drawn anew.
        seed: decides every random choice.
        splits: size of ``"train"`` and ``"test"``.

    Returns:
        The paths of annotations and image folders.

    Raises:
        UserError: ``out`` holds other files than a dataset made here, the seed is negative, or a
            split asks for an unknown class, more boxes than its images take or fewer than images.
    """
    out = Path(out).resolve()
    paths = DatasetPaths.under(out)
    recipe = _recipe(seed, splits)
    if _is_complete(out, recipe):
        return paths
    if foreign := _foreign_file(out):
        raise UserError(f"{foreign} is not part of this dataset: name a new folder")
    _check_request(seed, splits)

    # Drawn aside and then moved, so that a folder named `out` is never half a dataset.
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{uuid.uuid4().hex}.part")
    try:
        files = [
            file
            for index, (name, split) in enumerate(splits.items())
            for file in _draw_split(aside, name, split, np.random.default_rng([seed, index]))
        ]
        (aside / MARKER).write_text(json.dumps({"recipe": recipe, "files": files}))
        if out.exists():
            shutil.rmtree(out)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return paths


def _check_request(seed: int, splits: Mapping[str, Split]) -> None:
    if seed < 0:
        raise UserError(f"the seed is {seed}: give a whole number from 0 upward")
    for name, split in splits.items():
        if unknown := sorted(set(split.boxes) - set(CLASSES)):
            hint = did_you_mean(unknown[0], CLASSES)
            raise UserError(f"split '{name}' asks for the unknown class '{unknown[0]}': {hint}")
        boxes = sum(split.boxes.values())
        if not split.images <= boxes <= split.images * MAX_BOXES_PER_IMAGE:
            raise UserError(
                f"split '{name}' asks for {boxes} boxes on {split.images} images: give 1 to "
                f"{MAX_BOXES_PER_IMAGE} boxes per image on average"
            )


def _recipe(seed: int, splits: Mapping[str, Split]) -> str:
    settings = json.dumps([seed, {name: [s.images, dict(s.boxes)] for name, s in splits.items()}])
    return hashlib.sha256(Path(__file__).read_bytes() + settings.encode()).hexdigest()


def _files_of(out: Path) -> tuple[str, set[Path]]:
    """Recipe and files of the dataset in ``out`` according to its marker; nothing without one."""
    try:
        marker = json.loads((out / MARKER).read_text())
        return marker["recipe"], {out / file for file in marker["files"]} | {out / MARKER}
    except (OSError, ValueError, KeyError, TypeError):
        return "", set()


def _is_complete(out: Path, recipe: str) -> bool:
    found, files = _files_of(out)
    return found == recipe and all(file.is_file() for file in files)


def _foreign_file(out: Path) -> Path | None:
    """A file at or under ``out`` that was not made here, which replacing ``out`` would lose."""
    if out.is_file():
        return out
    ours = _files_of(out)[1]
    return next((p for p in sorted(out.rglob("*")) if p not in ours and not p.is_dir()), None)


def _draw_split(root: Path, name: str, split: Split, rng: Generator) -> list[str]:
    """Draw one split under ``root`` and return its files, relative to it."""
    (root / name).mkdir(parents=True)
    deck = rng.permutation([c for c, count in split.boxes.items() for _ in range(count)])
    # Every image gets one object; the others fall at random on the remaining places.
    places = split.images * (MAX_BOXES_PER_IMAGE - 1)
    chosen = rng.choice(places, len(deck) - split.images, replace=False)
    sizes = 1 + np.bincount(chosen % split.images, minlength=split.images)
    hands = np.split(deck, np.cumsum(sizes)[:-1])

    images, annotations = [], []
    for number, hand in enumerate(hands, 1):
        picture, boxes = draw_scene(hand.tolist(), rng)
        file = f"{number:04d}.jpg"
        quality = int(rng.integers(70, 96))
        cv2.imwrite(str(root / name / file), picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        images.append({"id": number, "file_name": file, "width": WIDTH, "height": HEIGHT})
        annotations += [
            {
                "id": len(annotations) + k,
                "image_id": number,
                "category_id": CLASSES.index(class_name) + 1,
                "bbox": [x, y, w, h],
                "area": w * h,
                "iscrowd": 0,
            }
            for k, (class_name, (x, y, w, h)) in enumerate(boxes, 1)
        ]
    categories = [{"id": i, "name": class_name} for i, class_name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / f"{name}.json").write_text(json.dumps(content))
    return [f"{name}.json", *(f"{name}/{image['file_name']}" for image in images)]


# --- Shapes: outlines in units of the object's half length, each filled even-odd ------------------


class Shape(NamedTuple):
    """A part before it is turned, scaled and painted.

    Attributes:
        outlines: closed curves; a second one inside the first is a hole.
        marks: (curve, brightness) of lines on its surface, brightness from -1 (black) to 1.
        length: range of its full length in pixels of the final image.
    """

    outlines: list[Points]
    marks: list[tuple[Points, float]]
    length: tuple[float, float]


RING_LENGTH = (24, 60)
ROD_LENGTH = (48, 100)


def _circle(radius: float, sides: int = 48) -> Points:
    angles = np.linspace(0, 2 * np.pi, sides + 1)
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def _arc(radii: tuple[float, float], start: float, end: float) -> Points:
    angles = np.linspace(start, end, 48)
    return np.linspace(*radii, 48)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


def _washer(rng: Generator) -> Shape:
    hole = rng.uniform(0.45, 0.62)
    return Shape([_circle(1), _circle(hole)], [(_circle(0.93), 0.3)], RING_LENGTH)


def _split_washer(rng: Generator) -> Shape:
    hole, gap, slant = rng.uniform(0.5, 0.62), rng.uniform(0.3, 0.5), rng.uniform(0.1, 0.3)
    rise = 0.07  # the ends of the spring do not meet
    outer = _arc((1 - rise, 1 + rise), gap, 2 * np.pi)
    inner = _arc((hole + rise, hole - rise), 2 * np.pi + slant, gap + slant)
    return Shape([np.concatenate([outer, inner])], [(outer * 0.95, 0.3)], RING_LENGTH)


def _nut(sides: int, rng: Generator) -> Shape:
    hole = rng.uniform(0.42, 0.56)
    marks = [(_circle(0.97 * np.cos(np.pi / sides)), 0.35), (_circle(hole + 0.07), -0.4)]
    return Shape([_circle(1, sides), _circle(hole)], marks, RING_LENGTH)


def _thread(start: float, end: float, pitch: float, radius: float) -> list[tuple[Points, float]]:
    lean = 0.5 * pitch
    return [
        (np.array([[x - lean, -radius], [x + lean, radius]]), -0.5)
        for x in np.arange(start, end, pitch)
    ]


def _rod(head: list[tuple[float, float]], tip: list[tuple[float, float]]) -> Points:
    """Outline symmetric about the x axis, from its upper (x, y) corners left to right."""
    upper = np.array(head + tip)
    return np.concatenate([upper * [1, -1], upper[::-1]])


def _wood_screw(rng: Generator) -> Shape:
    r = rng.uniform(0.13, 0.17)
    head = [(-1, 2.4 * r), (-0.93, 2.4 * r), (-0.72, r)]
    outline = _rod(head, [(0.45, r), (0.97, 0.02)])
    slot = [(np.array([[-0.98, -2 * r], [-0.98, 2 * r]]), 0.5)]
    return Shape([outline], slot + _thread(-0.35, 0.75, 0.13, r), ROD_LENGTH)


def _bolt(rng: Generator) -> Shape:
    r = rng.uniform(0.13, 0.17)
    head = [(-1, 2.1 * r), (-0.74, 2.1 * r), (-0.74, r)]
    outline = _rod(head, [(0.93, r), (1, 0.7 * r)])
    facets = [(np.array([[-1, y], [-0.74, y]]), -0.45) for y in (-0.9 * r, 0.9 * r)]
    return Shape([outline], facets + _thread(-0.15, 0.95, 0.085, r), ROD_LENGTH)


def _nail(rng: Generator) -> Shape:
    r = rng.uniform(0.05, 0.08)
    head = [(-1, 2.6 * r), (-0.94, 2.6 * r), (-0.92, r)]
    return Shape([_rod(head, [(0.85, r), (1, 0.01)])], [], ROD_LENGTH)


def _dowel_pin(rng: Generator) -> Shape:
    r = rng.uniform(0.10, 0.16)
    return Shape([_rod([(-1, 0.7 * r), (-0.95, r)], [(0.95, r), (1, 0.7 * r)])], [], (36, 80))


def _coin(rng: Generator) -> Shape:
    return Shape(
        [_circle(1)], [(_circle(0.9), 0.35), (_circle(rng.uniform(0.2, 0.5)), -0.3)], RING_LENGTH
    )


def _o_ring(rng: Generator) -> Shape:
    return Shape([_circle(1), _circle(rng.uniform(0.74, 0.84))], [], RING_LENGTH)


def _hex_plug(rng: Generator) -> Shape:
    socket = rng.uniform(0.3, 0.45)
    return Shape([_circle(1, 6)], [(_circle(0.84), 0.35), (_circle(socket, 6), -0.4)], RING_LENGTH)


def _gear(rng: Generator) -> Shape:
    teeth = int(rng.integers(10, 17))
    outline = _circle(1, 4 * teeth)[1:] * np.tile([1, 1, 0.84, 0.84], teeth)[:, None]
    return Shape([outline, _circle(rng.uniform(0.3, 0.5))], [(_circle(0.7), -0.3)], RING_LENGTH)


def _circlip(rng: Generator) -> Shape:
    gap = rng.uniform(0.9, 1.5)
    bands = [_arc((1, 1), gap, 2 * np.pi), _arc((0.76, 0.76), 2 * np.pi, gap)]
    return Shape([np.concatenate(bands)], [], RING_LENGTH)


Drawer = Callable[[Generator], Shape]
PARTS: dict[str, Drawer] = {
    "washer": _washer,
    "hex_nut": lambda rng: _nut(6, rng),
    "wood_screw": _wood_screw,
    "bolt": _bolt,
    "square_nut": lambda rng: _nut(4, rng),
    "split_washer": _split_washer,
}
LOOK_ALIKES: tuple[Drawer, ...] = (
    _nail, _dowel_pin, _coin, _o_ring, _hex_plug, _gear, _circlip,
)  # fmt: skip

# Blue, green, red. The same for all parts, so that colour tells nothing about the class.
MATERIALS = np.array([(178, 176, 172), (70, 66, 64), (88, 160, 196)])  # steel, oxide, brass


# --- Scenes ---------------------------------------------------------------------------------------


class Sprite(NamedTuple):
    """A part at its place on the canvas; the patch may reach over the canvas' border."""

    solid: np.ndarray  # (h, w) float32, share of each pixel that the part covers
    ink: np.ndarray  # (h, w) float32, brightness of its marks
    left: int
    top: int
    half_length: float


def draw_scene(
    class_names: list[str], rng: Generator
) -> tuple[np.ndarray, list[tuple[str, tuple[float, float, float, float]]]]:
    """Draw one picture.

    Args:
        class_names: the class of each object to draw; up to four look-alikes come on top.
        rng: source of every random choice.

    Returns:
        The picture, (HEIGHT, WIDTH, 3) uint8 in BGR order, and class name and visible box
        (x, y, width, height in pixels) of each object.
    """
    canvas = draw_bench(rng)
    owner = np.full(canvas.shape[:2], -1, np.int16)  # number of the part that each pixel shows
    areas: list[int] = []  # of each part, with what is hidden or outside
    light = rng.uniform(0, 2 * np.pi)

    parts = [(name, PARTS[name]) for name in class_names]
    parts += [(None, drawer) for drawer in choose_look_alikes(rng)]
    parts = [parts[i] for i in rng.permutation(len(parts))]
    for number, (_, drawer) in enumerate(parts):
        shape = drawer(rng)
        sprite, area = place_part(shape, owner, areas, rng)
        areas.append(area)
        inside, on_patch = overlap(sprite, owner.shape)
        owner[inside][sprite.solid[on_patch] > 0.5] = number
        _paint(canvas[inside], sprite, on_patch, light, rng)

    boxes = [
        (name, _visible_box(owner == number)) for number, (name, _) in enumerate(parts) if name
    ]
    return photograph(canvas, rng), boxes


def choose_look_alikes(rng: Generator) -> list[Drawer]:
    """Choose up to four parts that belong to no class."""
    return [LOOK_ALIKES[i] for i in rng.integers(0, len(LOOK_ALIKES), rng.integers(0, 5))]


def place_part(
    shape: Shape, owner: np.ndarray, areas: list[int], rng: Generator
) -> tuple[Sprite, int]:
    """Turn, tilt and put a part where it and all parts under it stay visible enough.

    Args:
        shape: the part.
        owner: (height, width) integer, number of the part that each pixel shows, -1 for none.
        areas: pixels of each part so far, with what is hidden or outside.
        rng: source of every random choice.

    Returns:
        The part at its place, and its area in pixels.
    """
    visible = np.bincount(owner[owner >= 0], minlength=len(areas))
    half = SUPERSAMPLING * rng.uniform(*shape.length) / 2
    while True:
        turn, tilt_axis = _rotation(rng.uniform(0, 2 * np.pi)), _rotation(rng.uniform(0, np.pi))
        tilt = np.diag([1, rng.uniform(0.78, 1)])
        centre = rng.uniform((0, 0), owner.shape[::-1])
        sprite = _rasterise(shape, turn @ tilt_axis.T @ tilt @ tilt_axis * half, centre, half)
        inside, on_patch = overlap(sprite, owner.shape)
        covers = sprite.solid > 0.5
        area = int(covers.sum())
        covered = owner[inside][covers[on_patch]]
        left = visible - np.bincount(covered[covered >= 0], minlength=len(areas))
        if len(covered) >= MIN_VISIBLE * area and np.all(left >= MIN_VISIBLE * np.array(areas)):
            return sprite, area
        half = max(0.97 * half, SUPERSAMPLING * shape.length[0] / 2)  # smaller fits sooner


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _rasterise(shape: Shape, matrix: np.ndarray, centre: np.ndarray, half: float) -> Sprite:
    outlines = [outline @ matrix.T + centre for outline in shape.outlines]
    margin = 4 + 0.25 * half  # room for the shadow
    low = np.floor(np.min([o.min(0) for o in outlines], 0) - margin).astype(int)
    high = np.ceil(np.max([o.max(0) for o in outlines], 0) + margin).astype(int)
    solid, dark, bright = np.zeros((3, *(high - low)[::-1]), np.uint8)

    def fixed_point(points: Points) -> np.ndarray:
        return np.round((points - low) * 16).astype(np.int32)

    cv2.fillPoly(solid, [fixed_point(o) for o in outlines], 255, cv2.LINE_AA, shift=4)
    thickness = max(1, round(0.035 * half))
    for curve, brightness in shape.marks:
        layer = bright if brightness > 0 else dark
        points = fixed_point(curve @ matrix.T + centre)
        level = round(255 * abs(brightness))
        cv2.polylines(layer, [points], False, level, thickness, cv2.LINE_AA, shift=4)
    ink = (bright.astype(np.float32) - dark) / 255
    return Sprite(solid / np.float32(255), ink, int(low[0]), int(low[1]), half)


def overlap(
    sprite: Sprite, canvas_shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The canvas' part under the sprite's patch, and the patch's part on the canvas."""
    on_canvas, on_patch = [], []
    starts = (sprite.top, sprite.left)
    for start, extent, limit in zip(starts, sprite.solid.shape, canvas_shape, strict=False):
        low, high = min(max(start, 0), limit), max(min(start + extent, limit), 0)
        on_canvas.append(slice(low, high))
        on_patch.append(slice(low - start, high - start))
    return tuple(on_canvas), tuple(on_patch)


def _visible_box(shown: np.ndarray) -> tuple[float, float, float, float]:
    x, y, w, h = cv2.boundingRect(shown.astype(np.uint8))
    return tuple(side / SUPERSAMPLING for side in (x, y, w, h))


def _paint(
    canvas: np.ndarray,
    sprite: Sprite,
    on_patch: tuple[slice, slice],
    light: float,
    rng: Generator,
) -> None:
    """Lay the part's shadow and lit surface over the canvas, in place."""
    solid, half = sprite.solid, sprite.half_length
    toward_light = np.array([np.cos(light), np.sin(light)])

    shift = -toward_light * (2 + 0.06 * half)
    moved = cv2.warpAffine(
        solid, np.float32([[1, 0, shift[0]], [0, 1, shift[1]]]), solid.shape[::-1]
    )
    shadow = cv2.GaussianBlur(moved, (0, 0), 1.5 + 0.03 * half)[on_patch][..., None]
    canvas *= 1 - rng.uniform(0.25, 0.55) * shadow

    # A blurred silhouette is a rounded surface; its slope toward the light is its brightness.
    roundness = max(1.5, 0.08 * half)
    height = cv2.GaussianBlur(solid, (0, 0), roundness)
    slope = (
        -roundness
        * 2.5
        * (
            cv2.Sobel(height, -1, 1, 0, scale=1 / 8) * toward_light[0]
            + cv2.Sobel(height, -1, 0, 1, scale=1 / 8) * toward_light[1]
        )
    )
    wear = _noise(solid.shape, (6, 6), rng) * rng.uniform(0, 0.12)
    tone = 1 + 0.4 * slope + sprite.ink + wear
    colour = rng.choice(MATERIALS) * rng.uniform(0.8, 1.15, 1) * rng.uniform(0.94, 1.06, 3)
    glint = rng.uniform(20, 110) * np.clip(slope - 0.35, 0, None)
    surface = tone[..., None] * colour.astype(np.float32) + glint[..., None]
    alpha = solid[on_patch][..., None]
    canvas += alpha * (np.clip(surface[on_patch], 0, 255) - canvas)


def _noise(shape: tuple[int, int], grain: tuple[float, float], rng: Generator) -> np.ndarray:
    """Smooth noise of unit deviation, its grains (height, width) pixels large."""
    rows, columns = (max(2, round(n / g) + 1) for n, g in zip(shape, grain, strict=True))
    coarse = rng.standard_normal((rows, columns), np.float32)
    return cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


# Blue, green, red: wood, wood, steel, cutting mat, blue cloth, cardboard, grey paint, white paper.
BENCHES = np.array(
    [(70, 115, 165), (45, 75, 115), (150, 150, 148), (90, 105, 40), (130, 80, 55), (110, 150, 185),
     (95, 95, 95), (205, 210, 212)]
)  # fmt: skip


def draw_bench(rng: Generator) -> np.ndarray:
    """A bench top: (height, width, 3) float32 from 0 to 255, supersampled."""
    relief = 0.5 * _noise((HEIGHT, WIDTH), (60, 80), rng)
    for grain in (rng.uniform(10, 30), rng.uniform(3, 8), 1.5):
        # Streaks as of wood and brushed steel, or round grains as of cork and cardboard.
        stretch = rng.choice([1, 1, 8, 25])
        grains = (grain, grain * stretch) if rng.random() < 0.5 else (grain * stretch, grain)
        relief += rng.uniform(0.1, 0.7) * _noise((HEIGHT, WIDTH), grains, rng)
    colour = np.float32(rng.choice(BENCHES))
    bench = colour * (1 + rng.uniform(0.05, 0.16) * relief[..., None])
    if rng.random() < 0.3:  # ruled mat or weave
        pitch, brightness = int(rng.integers(3, 30)), rng.uniform(0.75, 1.25)
        bench[::pitch] *= brightness
        bench[:, ::pitch] *= brightness
    for _ in range(rng.integers(0, 9)):  # scratches and pencil lines
        start, end = rng.integers(0, (WIDTH, HEIGHT), (2, 2)).tolist()
        shade = (rng.uniform(0.5, 1.4) * colour).tolist()
        cv2.line(bench, start, end, shade, int(rng.integers(1, 3)), cv2.LINE_AA)
    for _ in range(rng.integers(0, 4)):  # stains and mug rings
        stain = np.zeros((HEIGHT, WIDTH), np.float32)
        centre, radius = rng.integers(0, (WIDTH, HEIGHT)).tolist(), int(rng.integers(8, 45))
        cv2.circle(stain, centre, radius, rng.uniform(0.05, 0.3), int(rng.choice([-1, 2, 3])))
        bench *= 1 - cv2.blur(stain, (5, 5))[..., None]
    size = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)
    return cv2.resize(np.clip(bench, 0, 255), size, interpolation=cv2.INTER_NEAREST)


def photograph(canvas: np.ndarray, rng: Generator) -> np.ndarray:
    """Light the scene unevenly and take it with an imperfect camera: (HEIGHT, WIDTH, 3) uint8."""
    picture = cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    lamp = rng.uniform((0, 0), (WIDTH, HEIGHT))
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    distance = np.hypot(x - lamp[0], y - lamp[1]) / WIDTH
    picture *= (rng.uniform(0.85, 1.25) * (1 - rng.uniform(0, 0.45) * distance))[..., None]
    picture *= rng.uniform(0.9, 1.1, 3)
    blur = rng.random()
    if blur < 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.0))
    elif blur < 0.4:  # the camera moved
        kernel = np.diag(np.full(int(rng.integers(3, 5)), 1.0))
        kernel = kernel if rng.random() < 0.5 else kernel[::-1]
        picture = cv2.filter2D(picture, -1, kernel / kernel.sum())
    picture += rng.uniform(1, 8) * rng.standard_normal(picture.shape, np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def main() -> None:
    """Command line: draw the dataset into the folder given."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        paths = make_dataset(arguments.out, arguments.seed)
    except UserError as error:
        parser.error(str(error))
    print(f"{paths.train_json}\n{paths.test_json}")


if __name__ == "__main__":
    main()
