"""The tables of single methods in docs/results.md, from the raw results.

    python benchmarks/evidence/methods_table.py

A pair is the training of a method and that of the baseline in the same file with the same seed. A
figure is the mean difference of the pairs of a dataset. One to three pairs tell little of how much
pairs differ, so their variance is pooled over the methods, for each dataset by itself; the 95 %
intervals of the means over the datasets follow from it. They cover the trainings, not the choice of
the images. What only changes a trained model is no training of its own: its pairs differ less, and
are not pooled.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from counterpoise.ablation.results import RunResult, read_results
from counterpoise.evaluation.variance import Variance, half_width, sum_of
from counterpoise.utils.text import signed, signed_interval

RESULTS = Path(__file__).resolve().parents[1] / "results"
#: A file holds the trainings of one machine and version, which only round alike among themselves.
FILES = (
    "methods_val.jsonl",
    "methods_val_xeon.jsonl",
    "methods_dental_val.jsonl",
    "choice_val.jsonl",
    "methods_xeon.jsonl",
)
DATASETS = {"aquarium_val": "Aquarium", "dental_val": "Dental", "bccd_val": "BCCD"}
METRICS = ("AP", "tail")
METHODS = {
    "focal": "softmax focal loss, gamma 2",
    "weights": "class weights, background `sum_div3`",
    "weights_mean_div3": "class weights, background `mean_div3`",
    "focal_weights": "both, `sum_div3`",
    "focal_weights_ohem": "both, and OHEM in the RPN",
    "documents": "the [source documents](documents.md) literally: as above, plain mean",
    "sigmoid_focal": "sigmoid focal loss",
    "logit_adjusted": "logit-adjusted cross-entropy",
    "seesaw": "Seesaw loss",
    "eqlv2": "EQL v2",
    "pisa": "prime sample attention",
    "cosine": "cosine classifier",
    "ohem": "OHEM in the RPN",
    "one_to_one": "a true 1:1 in the RPN (`NEG_POS_UB 1`)",
    "roi_all": "all proposals in the box head",
    "roi_ohem": "OHEM in the box head",
    "repeat_factors": "repeat factors",
    "irfs": "IRFS",
    "class_aware": "class-aware sampling of images",
    "mosaic": "mosaic",
    "copy_paste": "copy-paste of boxes",
    "scale_jitter": "scale jitter",
    "colour": "colour jitter",
    "augmented": "the four together",
    "averaged": "averaged weights (EMA .99)",
    "norcal": "NorCal on the scores, exponent 0.2",
    "retrained_weights": "cRT: the classifier again, with class weights",
    "retrained_images": "cRT: the classifier again, images drawn by class",
    "pisa_eqlv2": "prime sample attention and EQL v2",
    "pisa_logit_adjusted_class_aware": "`recommended.yaml`: these three together",
    "cosine_one_to_one_copy_paste": "cosine classifier, true 1:1 and copy-paste together",
    "recommended_cosine_one_to_one_copy_paste": "these and `recommended.yaml`",
}
#: Of the same trainings as the baseline.
AFTERWARDS = {"averaged", "norcal", "retrained_weights", "retrained_images"}
#: Of the one-stage model, on Aquarium; the first is what the others are compared with.
ONE_STAGE_FILE = "retinanet_methods.jsonl"
ONE_STAGE = {
    "focal": "`focal`: sigmoid focal loss, one alpha",
    "focal_frequency": "`focal_frequency`: an alpha per class by its boxes",
    "cross_entropy": "`cross_entropy`: alpha-balanced",
    "ohem": "`ohem`: the 128 hardest anchors",
    "ohem_ratio": "`ohem_ratio`: one positive to three negatives of them",
    "class_aware": "`focal` with class-aware sampling",
    "repeat_factors": "`focal` with repeat factors",
}

#: (n, 2) by (dataset, method): a row per pair, the differences in AP and in the tail's.
Pairs = dict[tuple[str, str], np.ndarray]


def paired(files: Iterable[Path], first: str = "baseline") -> Pairs:
    """Differences of the methods from the baselines, called `first`, of equal file and seed."""
    found: defaultdict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for file in files:
        runs = {(r.dataset, r.variant, r.seed): r for r in read_results([file]) if r.scores}
        for (dataset, variant, seed), run in runs.items():
            baseline = runs.get((dataset, first, seed))
            if variant != first and baseline is not None:
                found[dataset, variant].append(_scores(run) - _scores(baseline))
    return {key: np.array(rows) for key, rows in found.items()}


def _scores(run: RunResult) -> np.ndarray:
    return np.array([run.scores.AP, run.scores.groups[-1].AP])


def variances_of_a_pair(pairs: Pairs, dataset: str) -> list[Variance]:
    """Of the differences in AP and in the tail's, pooled over the methods."""
    own = [v for (name, method), v in pairs.items() if name == dataset and method not in AFTERWARDS]
    freedom = sum(len(values) - 1 for values in own)
    squares = sum(((values - values.mean(axis=0)) ** 2).sum(axis=0) for values in own)
    return [Variance(float(each) / freedom, freedom) for each in squares]


class Effect(NamedTuple):
    """Mean difference of a method over datasets, and half of its 95 % interval."""

    value: float
    half: float

    def __str__(self) -> str:
        shown = signed(self.value)
        return f"**{shown}**" if abs(self.value) > self.half else shown

    def with_interval(self) -> str:
        """The difference with its interval in brackets."""
        return f"{self} ({signed_interval((self.value - self.half, self.value + self.half))})"


def effect(values: Sequence[np.ndarray], variances: Sequence[Variance]) -> Effect:
    """Average one metric over datasets.

    Args:
        values: of each dataset, the differences of its pairs.
        variances: of each dataset, that of a single pair.
    """
    count = len(values)
    parts = [
        Variance(of_a_pair.value / len(own) / count**2, of_a_pair.freedom)
        for own, of_a_pair in zip(values, variances, strict=True)
    ]
    return Effect(float(np.mean([own.mean() for own in values])), half_width(sum_of(parts)))


def rows(pairs: Pairs) -> Iterator[str]:
    """Lines of the table, and one on the trainings of each dataset."""
    heads = [f"{title} {metric}" for title in DATASETS.values() for metric in METRICS]
    heads += ["pairs", *(f"mean {metric}" for metric in METRICS)]
    yield f"| variant | | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 2) + "|"
    variances = {dataset: variances_of_a_pair(pairs, dataset) for dataset in DATASETS}
    for method, title in METHODS.items():
        own = {dataset: pairs[dataset, method] for dataset in DATASETS}
        cells = [
            str(effect([values[:, i]], [variances[dataset][i]]))
            for dataset, values in own.items()
            for i in range(len(METRICS))
        ]
        cells.append(", ".join(str(len(values)) for values in own.values()))
        for i in range(len(METRICS)):
            mean = effect([v[:, i] for v in own.values()], [v[i] for v in variances.values()])
            cells.append(mean.with_interval())
        yield f"| `{method}` | {title} | {' | '.join(cells)} |"
    yield ""
    noise = "; ".join(
        f"{title} {variances[dataset][0].value ** 0.5:.1f} and "
        f"{variances[dataset][1].value ** 0.5:.1f}"
        for dataset, title in DATASETS.items()
    )
    yield f"Standard deviation of the difference of one pair, of AP and of the tail: {noise}."


def one_stage_rows(file: Path) -> Iterator[str]:
    """Lines of the table of the one-stage model."""
    dataset, (first, *_) = "aquarium_val", ONE_STAGE
    pairs = paired([file], first)
    variances = variances_of_a_pair(pairs, dataset)
    runs = read_results([file])
    yield "| config of `quick_retinanet` | AP | difference | tail | difference |"
    yield "|---|---|---|---|---|"
    for method, title in ONE_STAGE.items():
        scores = np.array([_scores(run) for run in runs if run.variant == method])
        means, deviations = scores.mean(axis=0), scores.std(axis=0, ddof=1)
        cells = []
        for i, variance in enumerate(variances):
            cells.append(f"{means[i]:.1f} ± {deviations[i]:.1f}")
            own = None if method == first else effect([pairs[dataset, method][:, i]], [variance])
            cells.append(own.with_interval() if own else "")
        yield f"| {title} | {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    print("\n".join(rows(paired(RESULTS / name for name in FILES))))
    print()
    print("\n".join(one_stage_rows(RESULTS / ONE_STAGE_FILE)))


if __name__ == "__main__":
    main()
