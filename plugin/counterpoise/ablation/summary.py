"""What the results of an ablation say: means over seeds, and differences from the baseline."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from counterpoise.ablation.results import RunResult, Scores
from counterpoise.errors import UserError, did_you_mean
from counterpoise.evaluation.results import Interval
from counterpoise.evaluation.seeds import Trainings, difference
from counterpoise.utils.text import counted, listed

#: Variants that a note lists before it says how many more there are.
LISTED = 5


@dataclass(frozen=True)
class Resamples:
    """Runs of a dataset in equal resamples of its test images.

    Attributes:
        class_names: K names.
        images: (K,), test images with a box of the class.
        AP, AP50: by (config, seed), (B, K) each.
    """

    class_names: tuple[str, ...]
    images: np.ndarray
    AP: Mapping[tuple[str, int], np.ndarray]
    AP50: Mapping[tuple[str, int], np.ndarray]


@dataclass(frozen=True)
class Estimate:
    """A metric of a variant, 0-100.

    Attributes:
        by_seed: values, in the order of the seeds.
        mean: of them; None where there is none.
        std: standard deviation, n - 1 in the denominator; None for a single seed.
        difference: mean minus that of the baseline, see
            :func:`counterpoise.evaluation.seeds.difference`; None for the baseline.
        interval: of the difference, 95 %; see :attr:`DatasetSummary.covers`.
        excludes_zero: whether the interval does.
    """

    by_seed: tuple[float, ...]
    mean: float | None
    std: float | None
    difference: float | None = None
    interval: Interval | None = None
    excludes_zero: bool = False


@dataclass(frozen=True)
class VariantSummary:
    """A variant on one dataset.

    Attributes:
        name: of the variant.
        config: its id.
        settings: keys in which it differs from the baseline, with its values.
        seeds: of the runs that finished.
        missing: of the runs that did not: seed, outcome and reason.
        AP, AP50: means over the classes.
        groups: AP by frequency group.
        classes: AP by class.
        minutes: of training, mean over the runs; None where it was not kept.
        peak_memory_MB: largest of the runs; None where it was not measured.
    """

    name: str
    config: str
    settings: dict[str, str]
    seeds: tuple[int, ...]
    missing: tuple[tuple[int, str, str], ...]
    AP: Estimate
    AP50: Estimate
    groups: dict[str, Estimate]
    classes: dict[str, Estimate]
    minutes: float | None
    peak_memory_MB: int | None


@dataclass(frozen=True)
class DatasetSummary:
    """An ablation on one dataset.

    Attributes:
        name: of the dataset.
        test_set, test_images: name and size.
        iterations: of the trainings, several where they differ.
        variants: the baseline first.
        train_boxes: by class, the rarest first; None where they are not known.
        groups: names and classes, the most frequent first.
        covers: what the intervals cover, in words.
        machines: that the runs ran on.
        notes: what a reader must know, one sentence each; those of the last dataset name the ones
            that have no summary, since no run on them has finished.
    """

    name: str
    test_set: str
    test_images: int
    iterations: tuple[int, ...]
    variants: tuple[VariantSummary, ...]
    train_boxes: dict[str, int | None]
    groups: dict[str, tuple[str, ...]]
    covers: str
    machines: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def baseline(self) -> VariantSummary:
        """The first variant."""
        return self.variants[0]


#: Resamples of a dataset's finished runs; None where their detections are not there.
Resampling = Callable[[Sequence[RunResult]], Resamples | None]


def summarize(
    results: Sequence[RunResult],
    resampling: Resampling = lambda runs: None,
    baseline: str | None = None,
) -> tuple[DatasetSummary, ...]:
    """Summarise results by dataset and variant, both in the order of their first line.

    Args:
        results: of runs.
        resampling: of a dataset's finished runs, for intervals that cover the test images too.
        baseline: name of the variant that the others are compared with; None for the one whose
            settings differ from none, since runs side by side end in any order.

    Raises:
        UserError: no run has finished, or there is no variant of that name.
    """
    if baseline is not None and baseline not in (known := {r.variant for r in results}):
        raise UserError(f"--baseline {baseline} is no variant, {did_you_mean(baseline, known)}")
    summaries, without = [], []
    for dataset in dict.fromkeys(result.dataset for result in results):
        own = [result for result in results if result.dataset == dataset]
        if any(result.scores for result in own):
            summaries.append(_dataset(dataset, own, resampling, baseline))
        else:
            why = _reasons(own)
            without.append(f"No run on {dataset} has finished, so it has no table: {why}.")
    if not summaries:
        raise UserError(f"no run has finished: {_reasons(results) or 'there is none'}")
    summaries[-1] = replace(summaries[-1], notes=(*summaries[-1].notes, *without))
    return tuple(summaries)


def _reasons(results: Sequence[RunResult]) -> str:
    return "; ".join(sorted({result.reason for result in results if result.reason}))


def _dataset(
    name: str, results: Sequence[RunResult], resampling: Resampling, baseline: str | None
) -> DatasetSummary:
    if baseline is None:
        baseline = next((result.variant for result in results if not result.settings), None)
    variants, left_out = _by_variant(results, baseline)
    finished = [run for runs in variants.values() for run in runs if run.scores]
    first = finished[0].scores
    _check_alike(name, finished)
    resamples = resampling(finished)
    measure = _Measure(next(iter(variants.values())), resamples)
    boxes = {c.name: c.train_boxes for c in first.per_class}
    known = all(count is not None for count in boxes.values())
    order = sorted(first.per_class, key=lambda c: c.train_boxes if known else c.test_boxes)
    groups = {group.name: group.classes for group in first.groups}
    seeds = [sum(run.scores is not None for run in runs) for runs in variants.values()]
    covers = "seeds and test images" if max(seeds) > 1 else "test images alone"
    return DatasetSummary(
        name=name,
        test_set=first.test_set,
        test_images=first.test_images,
        iterations=tuple(sorted({run.iterations for run in finished})),
        variants=tuple(
            _variant(variant, runs, measure, [c.name for c in order], groups)
            for variant, runs in variants.items()
        ),
        train_boxes={c.name: c.train_boxes for c in order},
        groups=groups,
        covers=covers if resamples else "seeds alone",
        machines=tuple(dict.fromkeys(run.machine for run in finished if run.machine)),
        notes=(
            *_notes(measure, finished, seeds, left_out, baseline),
            *_note_of_earlier(results, variants),
        ),
    )


def _by_variant(
    results: Sequence[RunResult], baseline: str | None
) -> tuple[dict[str, list[RunResult]], int]:
    """Runs of the newest config of each variant by seed, the baseline first; and how many others.

    Args:
        results: on one dataset.
        baseline: its name; the first variant takes its place where there is none of that name.
    """
    variants: dict[str, list[RunResult]] = {}
    for result in results:
        variants.setdefault(result.variant, []).append(result)
    if baseline in variants:
        variants = {baseline: variants[baseline], **variants}
    left_out = 0
    for variant, runs in variants.items():
        newest = [run for run in runs if run.config == runs[-1].config]
        left_out += len(runs) - len(newest)
        variants[variant] = sorted(newest, key=lambda run: run.seed)
    return variants, left_out


def _note_of_earlier(
    results: Sequence[RunResult], variants: Mapping[str, Sequence[RunResult]]
) -> Iterator[str]:
    """Name the variants that are still to be trained with the config that the baseline has now.

    Args:
        results: on one dataset, in the order of their lines.
        variants: of :func:`_by_variant`.
    """
    configs: dict[str, set[str]] = {name: set() for name in variants}
    for run in results:
        configs[run.variant].add(run.config)
    first, newest = next((name, runs[0].config) for name, runs in variants.items())
    start = [(run.variant, run.config) for run in results].index((first, newest))
    since = {run.variant for run in results[start:]}
    earlier = [
        name
        for name, own in configs.items()
        if len(own) < len(configs[first]) and name not in since
    ]
    if earlier:
        yield (
            f"The config of {first} has changed since {listed(earlier, LISTED)} "
            f"{'was' if len(earlier) == 1 else 'were'} trained, so that other settings may differ "
            "too: run the ablation to its end."
        )


def _notes(
    measure: "_Measure",
    finished: Sequence[RunResult],
    seeds: Sequence[int],
    left_out: int,
    baseline: str | None,
) -> Iterator[str]:
    """What a reader must know, with the number of finished seeds of each variant."""
    if measure.name != baseline:
        named = "" if baseline is None else f", {baseline},"
        yield (
            f"There is no run of the baseline{named} here: differences are from {measure.name}, "
            "which comes first."
        )
    if not measure.baseline:
        yield "The baseline has no finished run, so there are no differences."
    if left_out:
        yield (
            f"Left out: {counted(left_out, 'line')} of another config of the same variant; that of "
            "its last line counts. Data that lie in another place make another config, unless they "
            "are below $DETECTRON2_DATASETS."
        )
    fewest = min(filter(None, seeds))  # of those with a difference
    if max(seeds) == 1:
        yield "No variant has two seeds that finished, so no interval covers the seeds."
    elif len(measure.baseline) == 1:
        yield (
            "One seed of the baseline alone has finished. It is taken to vary with the seed as the "
            "variant beside it does; where that has one alone, too, the interval does not cover "
            "the seeds."
        )
    elif fewest == 1:
        yield (
            "Not every variant has two seeds that finished; one without is taken to vary with the "
            "seed as the baseline does."
        )
    elif fewest == 2:
        yield (
            "Two seeds tell little of how much seeds differ, so their intervals are wide; three or "
            "five narrow them."
        )
    trained = {(r.variant, tuple(c.train_boxes for c in r.scores.per_class)) for r in finished}
    variants = [variant for variant, _ in trained]
    if changed := sorted({variant for variant in variants if variants.count(variant) > 1}):
        yield (
            f"The training data have changed between the seeds of {listed(changed, LISTED)}: a run "
            "is kept by its config, which has not, so train all of them again with another --out."
        )
    if len({_classes_of_groups(run.scores) for run in finished}) > 1:
        yield (
            "The trainings differ in which classes are frequent; the groups are those of the first."
        )
    if len(versions := {tuple(sorted(run.versions.items())) for run in finished}) > 1:
        yield f"The runs come from {len(versions)} combinations of package versions."


def _variant(
    name: str,
    runs: Sequence[RunResult],
    measure: "_Measure",
    classes: Sequence[str],
    groups: Mapping[str, Sequence[str]],
) -> VariantSummary:
    finished = [run for run in runs if run.scores]
    minutes = [run.training_seconds / 60 for run in finished if run.training_seconds]
    memory = [run.peak_memory_MB for run in finished if run.peak_memory_MB is not None]
    return VariantSummary(
        name=name,
        config=runs[0].config,
        settings=runs[0].settings,
        seeds=tuple(run.seed for run in finished),
        missing=tuple((r.seed, r.outcome, r.reason or "") for r in runs if not r.scores),
        AP=measure(finished, "AP", lambda scores: scores.AP),
        AP50=measure(finished, "AP50", lambda scores: scores.AP50),
        groups={
            group: measure(finished, "AP", _mean_of(names), names)
            for group, names in groups.items()
        },
        classes={own: measure(finished, "AP", _of_class(own), [own]) for own in classes},
        minutes=fmean(minutes) if minutes else None,
        peak_memory_MB=max(memory, default=None),
    )


def _of_class(name: str) -> Callable[[Scores], float | None]:
    return lambda scores: next(c.AP for c in scores.per_class if c.name == name)


def _mean_of(names: Sequence[str]) -> Callable[[Scores], float | None]:
    def mean(scores: Scores) -> float | None:
        found = [c.AP for c in scores.per_class if c.name in names and c.AP is not None]
        return fmean(found) if found else None

    return mean


class _Measure:
    """Estimates of metrics against the runs of a baseline."""

    def __init__(self, baseline: Sequence[RunResult], resamples: Resamples | None) -> None:
        self.name = baseline[0].variant
        self.baseline = [run for run in baseline if run.scores]
        self.resamples = resamples

    def __call__(
        self,
        runs: Sequence[RunResult],
        metric: str,
        value: Callable[[Scores], float | None],
        classes: Sequence[str] | None = None,
    ) -> Estimate:
        """Estimate a metric.

        Args:
            runs: of one variant, that have finished.
            metric: AP or AP50, of the resamples.
            value: of the metric in a run's scores.
            classes: whose mean it is; None for all.
        """
        own = self._trainings(runs, metric, value, classes)
        if own is None:
            return Estimate((), None, None)
        mean = float(own.values.mean())
        by_seed = tuple(own.values.tolist())
        first = self._trainings(self.baseline, metric, value, classes)
        if first is None or runs[0].config == self.baseline[0].config:
            return Estimate(by_seed, mean, own.std)
        images = None if self.resamples is None else self.resamples.images[self._columns(classes)]
        change = difference(first, own, images)
        return Estimate(by_seed, mean, own.std, change.value, change.interval, change.excludes_zero)

    def _trainings(
        self,
        runs: Sequence[RunResult],
        metric: str,
        value: Callable[[Scores], float | None],
        classes: Sequence[str] | None,
    ) -> Trainings | None:
        values = [value(run.scores) for run in runs]
        if not values or None in values:
            return None
        samples = None
        if self.resamples is not None:
            stored = getattr(self.resamples, metric)
            columns = self._columns(classes)
            samples = np.stack([stored[run.config, run.seed][:, columns] for run in runs])
        return Trainings(np.array(values), samples, tuple(run.seed for run in runs))

    def _columns(self, classes: Sequence[str] | None) -> list[int]:
        names = self.resamples.class_names
        return [k for k, name in enumerate(names) if classes is None or name in classes]


def _classes_of_groups(scores: Scores) -> tuple[tuple[str, ...], ...]:
    return tuple(group.classes for group in scores.groups)


def _check_alike(dataset: str, runs: Iterable[RunResult]) -> None:
    """Refuse runs whose scores cannot be compared."""
    tests = {f"{run.scores.test_set} with {run.scores.test_images} images" for run in runs}
    if len(tests) > 1:
        raise UserError(
            f"the runs on {dataset} were tested on different images ({'; '.join(sorted(tests))}): "
            "give each its own dataset"
        )
    lists = {tuple(c.name for c in run.scores.per_class) for run in runs}
    if len(lists) > 1:
        raise UserError(
            f"the runs on {dataset} have different classes "
            f"({'; '.join(', '.join(own) for own in sorted(lists))}): give each its own dataset"
        )
