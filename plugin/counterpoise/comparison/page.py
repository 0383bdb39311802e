"""``compare.html``: a comparison as a page."""

from collections.abc import Sequence

from counterpoise.comparison.figures import (
    ap_against_count,
    class_differences,
    error_bars,
    recall_curves,
)
from counterpoise.comparison.results import Comparison
from counterpoise.comparison.scoring import RunScores
from counterpoise.comparison.words import duration
from counterpoise.evaluation.error_types import ERROR_TYPES
from counterpoise.pages import render
from counterpoise.pages.rendering import signed

#: Classes that the plot of differences has room for.
CLASSES_PLOTTED = 60
#: Classes up to which a reader sees the tables of classes without unfolding them.
CLASSES_UNFOLDED = 20
#: Classes whose curves are shown.
CURVES = 6


def as_page(comparison: Comparison, scores: Sequence[RunScores]) -> str:
    """Render a comparison as a self-contained page.

    Args:
        comparison: of :func:`~counterpoise.comparison.comparing.compare`; a class has test boxes.
        scores: what it was made from.
    """
    tested = [c for c in comparison.rarest_first if c.test_boxes]
    counted = all(c.train_boxes is not None for c in comparison.classes)
    mean, groups = comparison.mean, comparison.groups
    headline = [
        ("AP, mean of classes", mean.AP, mean.AP_difference),
        ("AP50, mean of classes", mean.AP50, mean.AP50_difference),
        *(
            (f"AP, mean of {group.name}", group.scores.AP, group.scores.AP_difference)
            for group in groups
        ),
    ]
    return render(
        "compare.html",
        comparison=comparison,
        headline=headline,
        matched=[
            *((c.name, c.matched) for c in tested),
            ("sum", comparison.matched),
        ],
        kinds=list(ERROR_TYPES),
        duration=duration,
        signed=signed,
        num_tested=len(tested),
        num_plotted=min(len(tested), CLASSES_PLOTTED),
        unfolded=len(tested) <= CLASSES_UNFOLDED,
        differences_figure=class_differences(comparison, tested[:CLASSES_PLOTTED]),
        counts_figure=ap_against_count(comparison) if counted else (),
        errors_figure=error_bars(comparison),
        curves_figure=recall_curves(comparison, scores, tested[:CURVES]),
    )
