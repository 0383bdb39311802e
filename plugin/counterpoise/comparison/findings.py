"""What a comparison finds, in sentences."""

from counterpoise.comparison.results import Comparison, Difference, ErrorComparison, Scores
from counterpoise.utils.text import duration, listed, sentence, signed, signed_interval

#: Names that a sentence lists before it says how many more there are.
LISTED = 5
#: Smallest change of AP50 lost to an error type that is worth a sentence.
WORTH_SAYING = 0.1
#: From as many classes on, some intervals are to be expected to exclude 0 by chance.
MANY_CLASSES = 20


def findings(comparison: Comparison) -> dict[str, tuple[str, ...]]:
    """What each run but the baseline changed: overall, rare classes, errors, cost."""
    return {run.name: tuple(_findings(comparison, run.name)) for run in comparison.others}


def notes(comparison: Comparison) -> tuple[str, ...]:
    """What keeps the numbers from being taken for more than they are."""
    said = [
        "The intervals cover the choice of test images, not the training seed: two trainings that "
        "differ in their seed alone differ too, so a claim about a method needs several seeds."
    ]
    if set(comparison.settings) == {"SEED"}:
        said.append(
            "The configs differ in SEED alone: the differences show what another seed does, not "
            "what a method does."
        )
    classes = comparison.classes
    if len(classes) >= MANY_CLASSES:
        said.append(
            "About 1 in 20 intervals excludes 0 by chance: among these "
            f"{len(classes)} classes expect {len(classes) / 20:.0f} to do so even if nothing has "
            "changed."
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


def _findings(comparison: Comparison, run: str) -> list[str]:
    baseline = comparison.baseline.name
    said = [f"{run} against {baseline}: mean AP {_change(comparison.mean, baseline, run)}."]
    if comparison.groups:
        rarest = comparison.groups[-1]
        said.append(
            f"The {rarest.name} classes ({listed(rarest.classes, LISTED)}): "
            f"mean AP {_change(rarest.scores, baseline, run)}."
        )
    said.append(_changed_classes(comparison, run))
    said.append(_moved_errors(comparison.errors, baseline, run))
    matched = comparison.matched
    if matched is not None:
        recall = "its own" if matched.recall is None else f"{matched.recall:.2f}"
        said.append(
            f"At a recall that all runs reach ({recall} in each class) it makes "
            f"{matched.background_per_image[run]:.2f} false positives on background per image "
            f"against {matched.background_per_image[baseline]:.2f} and misses "
            f"{matched.missed[run]} boxes against {matched.missed[baseline]}."
        )
    said += _cost(comparison, run)
    return said


def _change(scores: Scores, baseline: str, run: str) -> str:
    difference = scores.AP_difference[run]
    if difference.value is None:
        return "unknown, for there are no test boxes"
    return (
        f"{scores.AP[run]:.1f} against {scores.AP[baseline]:.1f}, {signed(difference.value)} "
        f"({_verdict(difference)})"
    )


def _verdict(difference: Difference) -> str:
    if difference.interval is None:
        return "in too few test images for an interval"
    spread = f"95 % CI {signed_interval(difference.interval)}"
    if not difference.excludes_zero:
        return f"{spread} includes 0: neither gain nor loss is shown"
    return f"{spread} excludes 0: a {'gain' if difference.value > 0 else 'loss'}"


def _changed_classes(comparison: Comparison, run: str) -> str:
    changes = {c.name: c.scores.AP_difference[run] for c in comparison.classes}
    changed = {name: d.value for name, d in changes.items() if d.excludes_zero}
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
    changes = {kind: e.AP50_lost_difference[run] for kind, e in errors.items()}
    moved = [kind for kind, by in changes.items() if by is not None and abs(by) >= WORTH_SAYING]
    moved.sort(key=lambda kind: -abs(changes[kind]))
    if not moved:
        return f"No error type costs {WORTH_SAYING} AP50 more or less than before."
    parts = []
    for kind in moved[:2]:
        e = errors[kind]
        what = "missed boxes" if kind == "missed" else f"{kind} errors"
        parts.append(
            f"{what} cost {e.AP50_lost[run]:.1f} AP50 against {e.AP50_lost[baseline]:.1f} "
            f"(count {e.count[run]} against {e.count[baseline]})"
        )
    return f"What moved most: {'; '.join(parts)}."


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
