"""What a comparison finds, in sentences."""

from counterpoise.comparison.results import Comparison, ErrorComparison, RunCost, Value, Values
from counterpoise.evaluation.variance import differing_by_chance
from counterpoise.utils.text import duration, listed, number, sentence, signed, signed_interval

#: Names that a sentence lists before it says how many more there are.
LISTED = 5
#: Smallest change of AP50 lost to an error type that is worth a sentence.
WORTH_SAYING = 0.1


def findings(comparison: Comparison) -> dict[str, tuple[str, ...]]:
    """What each run but the baseline changed: overall, rare classes, errors, cost."""
    return {run.name: tuple(_findings(comparison, run.name)) for run in comparison.others}


def notes(comparison: Comparison) -> tuple[str, ...]:
    """What keeps the numbers from being taken for more than they are."""
    if comparison.several_seeds:
        said = [
            "Values are means over the seeds of a config; the intervals cover the choice of test "
            "images, and the seeds where there are several."
        ]
        if any(_pairs_leave_out(comparison.baseline, run) for run in comparison.others):
            said.append(
                "Sides have different seeds: a difference is of the seeds that both have, so it "
                "need not be what their means differ by."
            )
    else:
        said = [
            "The intervals cover the choice of test images, not the training seed: two trainings "
            "that differ in their seed alone differ too, so a claim about a method needs several "
            "seeds."
        ]
    if set(comparison.settings) == {"SEED"}:
        said.append(
            "The configs differ in SEED alone: the differences show what another seed does, not "
            "what a method does."
        )
    classes = comparison.classes
    if expected := differing_by_chance(len(classes)):
        said.append(
            "About 1 in 20 intervals excludes 0 by chance: among these "
            f"{len(classes)} classes expect {expected} to do so even if nothing has changed."
        )
    if absent := [c.name for c in classes if not c.test_boxes]:
        said.append(
            f"Without test boxes, so without AP and not in the mean: {listed(absent, LISTED)}."
        )
    if short := [c.name for c in classes if c.test_boxes and c.missing_resamples]:
        said.append(
            f"In so few test images that some resamples lack them, which their intervals leave "
            f"out: {listed(short, LISTED)}."
        )
    if not comparison.same_training_data:
        said.append(
            "The runs were trained on different numbers of boxes or images; counts and groups here "
            "are those of the first run that states them."
        )
    hardware = {run.hardware for run in comparison.runs if run.hardware}
    if len(hardware) > 1:
        said.append(
            f"The runs ran on different hardware ({'; '.join(sorted(hardware))}), so their times "
            "do not compare."
        )
    return tuple(said)


def _pairs_leave_out(first: RunCost, second: RunCost) -> bool:
    """Whether :func:`counterpoise.evaluation.seeds.difference` leaves a seed of theirs out."""
    own, other = set(first.seeds or ()), set(second.seeds or ())
    return len(own & other) > 1 and own != other


def _findings(comparison: Comparison, run: str) -> list[str]:
    baseline = comparison.baseline.name
    said = [f"{run} against {baseline}: mean AP {_change(comparison.mean.AP, baseline, run)}."]
    if comparison.groups:
        rarest = comparison.groups[-1]
        said.append(
            f"The {rarest.name} classes ({listed(rarest.classes, LISTED)}): "
            f"mean AP {_change(rarest.AP, baseline, run)}."
        )
    said.append(_changed_classes(comparison, run))
    said.append(_moved_errors(comparison.errors, baseline, run))
    if matched := comparison.matched:
        recall = "its own" if matched.recall is None else f"{matched.recall:.2f}"
        background, missed = matched.background_per_image, matched.missed
        said.append(
            f"At a recall that all runs reach ({recall} in each class) it makes "
            f"{background[run].value:.2f} false positives on background per image "
            f"against {background[baseline].value:.2f}, with "
            f"{_count(missed[run])} missed boxes against {_count(missed[baseline])}."
        )
    return said + _cost(comparison, run)


def _change(AP: Values, baseline: str, run: str) -> str:
    own = AP[run]
    if own.difference is None:
        return "unknown, for there are no test boxes"
    return (
        f"{own.value:.1f} against {AP[baseline].value:.1f}, {signed(own.difference)} "
        f"({_verdict(own)})"
    )


def _verdict(own: Value) -> str:
    if own.interval is None:
        return "in too few test images for an interval"
    spread = f"95 % CI {signed_interval(own.interval)}"
    if not own.excludes_zero:
        return f"{spread} includes 0: neither gain nor loss is shown"
    return f"{spread} excludes 0: a {'gain' if own.difference > 0 else 'loss'}"


def _changed_classes(comparison: Comparison, run: str) -> str:
    changed = {c.name: c.AP[run].difference for c in comparison.classes if c.AP[run].excludes_zero}
    if not changed:
        return "No class is better or worse: no 95 % CI of a class excludes 0."
    better = sorted((name for name in changed if changed[name] > 0), key=lambda n: -changed[n])
    worse = sorted((name for name in changed if changed[name] < 0), key=lambda n: changed[n])
    parts = [
        f"{word}: {listed([f'{n} ({signed(changed[n])})' for n in names], LISTED)}"
        if names
        else f"no class is {word}"
        for word, names in (("better", better), ("worse", worse))
    ]
    return f"By a 95 % CI that excludes 0, {'; '.join(parts)}."


def _moved_errors(errors: dict[str, ErrorComparison], baseline: str, run: str) -> str:
    changes = {name: abs(e.AP50_lost[run].difference or 0) for name, e in errors.items()}
    moved = [name for name in errors if changes[name] >= WORTH_SAYING]
    if not moved:
        return f"No error type costs {WORTH_SAYING} AP50 more or less than before."
    parts = []
    for name in sorted(moved, key=lambda name: -changes[name])[:2]:
        lost, count = errors[name].AP50_lost, errors[name].count
        what = "missed boxes" if name == "missed" else f"{name} errors"
        parts.append(
            f"{what} cost {lost[run].value:.1f} AP50 against {lost[baseline].value:.1f} "
            f"(count {_count(count[run])} against {_count(count[baseline])})"
        )
    return f"What moved most: {'; '.join(parts)}."


def _count(own: Value) -> str:
    """A count, or the mean of those of several seeds."""
    return number(own.value, 0 if isinstance(own.value, int) else 1)


def _cost(comparison: Comparison, run: str) -> list[str]:
    baseline = comparison.baseline
    own = next(r for r in comparison.runs if r.name == run)
    said = []
    if own.iteration_ratio is not None:
        said.append(
            f"An iteration takes {own.seconds_per_iteration:.3g} s against "
            f"{baseline.seconds_per_iteration:.3g} s, {own.iteration_ratio:.2f} times the time"
        )
    if own.training_ratio is not None:
        said.append(
            f"training took {duration(own.training_seconds)} against "
            f"{duration(baseline.training_seconds)}"
        )
    if own.inference_ratio is not None:
        said.append(
            f"inference takes {own.seconds_per_image:.3g} s an image against "
            f"{baseline.seconds_per_image:.3g} s"
        )
    return [sentence("; ".join(said))] if said else []
