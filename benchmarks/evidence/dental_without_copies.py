"""Split the Dental dataset anew, without the mirrored and turned copies that its own splits share.

Of the export's validation and test images about four in five are such copies of training images,
so that a score on them says nothing. Its `valid` and `test` are pooled and divided into two halves
with rare classes in both; then the validation half loses what looks like a test image, and the
training set what looks like either. Nothing is drawn at random. Usage:

    .venv/bin/python benchmarks/evidence/dental_without_copies.py [DENTAL] [--out DIR]

writes lists of images and the `data.yaml` that `dental.yaml` and `dental_val.yaml` name.
"""

import argparse
import os
from pathlib import Path

import yaml

from counterpoise.datasets.stratify import stratified_holdout
from counterpoise.inspection.near_duplicates import find_near_duplicates


def images_of(folder: Path) -> list[str]:
    """Images of a split of the export."""
    return sorted(str(path.resolve()) for path in (folder / "images").iterdir())


def classes_in(image: str) -> frozenset[int]:
    """Class numbers of the boxes of an image."""
    path = Path(image)
    labels = path.parents[1] / "labels" / f"{path.stem}.txt"
    return frozenset(int(line.split()[0]) for line in labels.read_text().splitlines() if line)


def split(root: Path) -> dict[str, list[str]]:
    """Images of the new splits by name."""
    pooled = images_of(root / "valid") + images_of(root / "test")
    # Known by name, so that the split is the same wherever the dataset lies.
    held = stratified_holdout([Path(p).name for p in pooled], [*map(classes_in, pooled)], 0.5)
    splits = {
        "test": [path for path in pooled if Path(path).name in held],
        "val": [path for path in pooled if Path(path).name not in held],
        "train": images_of(root / "train"),
    }
    for similar in find_near_duplicates(splits).similar:
        copies = {copy for copy, _, _ in similar.pairs}
        splits[similar.second] = [p for p in splits[similar.second] if p not in copies]
    return splits


def main() -> None:
    """Write the lists and their ``data.yaml``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    data = Path(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    parser.add_argument("root", type=Path, nargs="?", default=data / "dental", metavar="DENTAL")
    parser.add_argument("--out", type=Path, default=Path("output/evidence/dental"))
    args = parser.parse_args()
    names = yaml.safe_load((args.root / "data.yaml").read_text())["names"]
    args.out.mkdir(parents=True, exist_ok=True)
    splits = split(args.root)
    for name, images in splits.items():
        (args.out / f"{name}.txt").write_text("\n".join(images) + "\n")
        print(f"{name}: {len(images)} images")
    lists = {name: f"{name}.txt" for name in splits}
    (args.out / "data.yaml").write_text(yaml.safe_dump({**lists, "names": names}))


if __name__ == "__main__":
    main()
