"""Images of one split that look like one of another, though their files differ.

A difference hash (dHash; Krawetz, "Kind of Like That", The Hacker Factor Blog, 2013) has a bit per
pair of neighbouring cells of the shrunken grey image, set where it becomes brighter to the right.
It survives other sizes, encodings, brightness and contrast, and it is taken of all eight ways to
mirror and turn an image by quarter turns. With the 64 bits of its author, images of one kind look
alike: different panoramic X-rays come as near as 0 bits, while with 256 none comes nearer than 21,
and mirrored and turned copies of them stay within 1. Where an image is mostly even, few bits say
anything, so that the small grey images have to correlate as well.

It does not find crops, nor the frames of a moving camera.
"""

import filecmp
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import cv2
import numpy as np

from counterpoise.inspection.results import NearDuplicates, SimilarFiles
from counterpoise.utils.pixels import scaled_to_8_bits
from counterpoise.utils.progress import Track

#: Most bits of 256 in which the hashes of two near-duplicates differ.
MAX_DISTANCE = 16
#: Least correlation of their grey images.
MIN_CORRELATION = 0.9
#: Images of a split that are compared, evenly spaced, which bounds time and memory.
MOST_IMAGES = 10_000

_SIDE = 64  # pixels of the square that an image is kept as
_CELLS = 16  # of the hash, in each direction


def find_near_duplicates(
    splits: Mapping[str, Sequence[str]], track: Track = iter, most: int = MOST_IMAGES
) -> NearDuplicates:
    """Compare the images of each split with those of every split before it, by their looks.

    Files with the same bytes are left out: :func:`find_duplicate_files` names them.

    Args:
        splits: files by the name of the split; of a single one nothing is read.
        track: wraps the files to read, to show progress.
        most: images of a split that are compared.
    """
    if len(splits) < 2:
        return NearDuplicates(0, (), (), ())
    sampled = tuple(name for name, files in splits.items() if len(files) > most)
    chosen = {name: _evenly(files, most) for name, files in splits.items()}
    listed = sorted({path for files in chosen.values() for path in files})
    squares = dict(_read(listed, track))
    chosen = {name: [path for path in files if path in squares] for name, files in chosen.items()}
    hashes = {path: _hash(square) for path, square in squares.items()}
    similar = []
    for first, second in combinations(chosen, 2):
        pairs = tuple(_pairs(chosen[first], chosen[second], squares, hashes))
        if pairs:
            similar.append(SimilarFiles(first, second, len(chosen[second]), pairs))
    unreadable = tuple(path for path in listed if path not in squares)
    return NearDuplicates(len(squares), sampled, unreadable, tuple(similar))


def _evenly(files: Sequence[str], most: int) -> list[str]:
    if len(files) <= most:
        return list(files)
    return [files[i] for i in np.linspace(0, len(files) - 1, most).astype(int)]


def _read(files: Sequence[str], track: Track) -> Iterator[tuple[str, np.ndarray]]:
    """Files that can be read with their images as small grey squares, (64, 64) uint8."""
    with ThreadPoolExecutor() as pool:  # OpenCV decodes without holding the interpreter
        for path, square in zip(track(files), pool.map(_square, files), strict=True):
            if square is not None:
                yield path, square


def _square(path: str) -> np.ndarray | None:
    try:
        # OpenCV's own reading of files ends the process where a name is no UTF-8.
        content = np.fromfile(path, np.uint8)
        pixels = cv2.imdecode(content, cv2.IMREAD_REDUCED_GRAYSCALE_4 | cv2.IMREAD_ANYDEPTH)
        if pixels is not None and min(pixels.shape) < _SIDE:
            pixels = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    except (OSError, cv2.error):  # also a header that promises more pixels than OpenCV takes
        return None
    if pixels is None:
        return None
    if pixels.dtype != np.uint8:
        pixels = scaled_to_8_bits(pixels)
    return cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)


def _hash(square: np.ndarray) -> np.ndarray:
    """Difference hash, (32,) uint8."""
    small = cv2.resize(square, (_CELLS + 1, _CELLS), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1])


def _pairs(
    others: Sequence[str],
    own: Sequence[str],
    squares: Mapping[str, np.ndarray],
    hashes: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, str, int]]:
    """A file of `own`, the one of `others` that is nearest to it, and their distance in bits."""
    if not others or not own:
        return
    known = np.stack([hashes[path] for path in others])
    views = [[_hash(view) for view in _views(squares[path])] for path in own]
    # The nearest of `known` for each of the eight views of each file.
    distance, nearest = cv2.batchDistance(
        np.reshape(views, (-1, known.shape[1])), known, cv2.CV_32S,
        normType=cv2.NORM_HAMMING, K=1,
    )  # fmt: skip
    distance, nearest = distance.reshape(len(own), -1), nearest.reshape(len(own), -1)
    for path, bits, at in zip(own, distance, nearest, strict=True):
        view = int(bits.argmin())
        other = others[at[view]]
        if bits[view] > MAX_DISTANCE or filecmp.cmp(path, other, shallow=False):
            continue
        if _correlation(_views(squares[path])[view], squares[other]) >= MIN_CORRELATION:
            yield path, other, int(bits[view])


def _views(square: np.ndarray) -> list[np.ndarray]:
    """A square turned and mirrored in all eight ways."""
    turned = [np.rot90(square, k) for k in range(4)]
    return [np.ascontiguousarray(view) for t in turned for view in (t, t[:, ::-1])]


def _correlation(square: np.ndarray, other: np.ndarray) -> float:
    """Pearson's, in [-1, 1]; of even images 1 among themselves, else 0."""
    a, b = (s - s.mean() for s in (square.astype(np.float64), other.astype(np.float64)))
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    if scale == 0:
        return float(not a.any() and not b.any())
    return float((a * b).sum() / scale)
