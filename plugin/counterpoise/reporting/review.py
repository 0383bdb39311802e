"""The labels that a detector contradicts, as a page of pictures and as a COCO file."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from counterpoise.evaluation.inputs import Detections
from counterpoise.evaluation.label_issues import (
    IssueKind,
    LabelIssue,
    issues_as_coco,
    with_earlier,
)
from counterpoise.evaluation.stored import TestSet
from counterpoise.pages.rendering import render
from counterpoise.pages.sections import Gallery, Part, Section, Text, parts_as_text
from counterpoise.reporting.gallery import label_issues
from counterpoise.utils.files import write_atomically, write_json
from counterpoise.utils.table import Table
from counterpoise.utils.text import counted

#: In a run's OUTPUT_DIR, with a folder per dataset.
FOLDER = "review"

_MEANINGS = {
    IssueKind.OVERLOOKED: "Overlooked objects: detections that fit no label",
    IssueKind.BADLY_PLACED: "Badly placed boxes: labels with a detection beside them",
    IssueKind.SWAPPED: "Swapped classes: labels in whose place another class is detected",
}


def write_review(
    test_set: TestSet,
    out: Path,
    min_score: float,
    pictures: int,
    earlier: Sequence[Detections] = (),
) -> tuple[list[Path], str]:
    """Write ``review.json`` with all issues, and ``review.html`` with those of highest score.

    Args:
        test_set: labels and detections.
        out: folder to write to.
        min_score: lowest score of a detection that counts.
        pictures: of each kind of issue, at most.
        earlier: detections of earlier models of the same training; what more of them contradict
            comes first.

    Returns:
        both files, and a summary for the terminal.

    Raises:
        UserError: a file cannot be written.
    """
    truth, found = test_set.ground_truth, test_set.detections
    issues = with_earlier(truth, found, earlier, min_score)
    lead = list(_lead(test_set, issues, min_score, len(earlier)))
    sections = [
        Section(kind.name.lower(), meaning, list(_pictures(test_set, issues, kind, pictures)))
        for kind, meaning in _MEANINGS.items()
    ]
    page = render(f"Labels of {test_set.name} to review", lead, sections)
    written = [
        write_json(out / "review.json", issues_as_coco(truth, found, issues)),
        # A file name of another encoding holds what UTF-8 does not.
        write_atomically(out / "review.html", page.encode(errors="replace")),
    ]
    return written, parts_as_text(lead)


def _lead(
    test_set: TestSet, issues: Sequence[LabelIssue], min_score: float, earlier: int
) -> Iterator[Part]:
    truth, found = test_set.ground_truth, test_set.detections
    yield Text(
        f"{counted(len(issues), 'place')} in {counted(truth.num_images, 'image')} of "
        f"{test_set.name} where its {counted(len(truth.boxes), 'label')} and the "
        f"{counted(int((found.scores >= min_score).sum()), 'detection')} of score {min_score:g} "
        "and above disagree."
    )
    numbers = Counter((found.classes[issue.detection], issue.kind) for issue in issues)
    rows = [
        (name, *(str(numbers[k, kind]) for kind in _MEANINGS))
        for k, name in enumerate(truth.class_names)
    ]
    yield Table(("detected class", *(kind.value for kind in _MEANINGS)), rows)
    if earlier:
        throughout = sum(issue.earlier == earlier for issue in issues)
        yield Text(
            f"At {throughout} of them the earlier checkpoints of the training ({earlier}) "
            f"disagree, too{', and they come first' if throughout else ''}."
        )
    yield Text(
        f"{'Then the' if earlier else 'The'} highest score comes first. It ranks: how many of the "
        "first are right is for the eye to say.",
        "note",
    )


def _pictures(
    test_set: TestSet, issues: Sequence[LabelIssue], kind: IssueKind, limit: int
) -> Iterator[Part]:
    own = [issue for issue in issues if issue.kind == kind]
    if not own:
        yield Text("There are none.")
        return
    shown, unreadable = label_issues(test_set, own[:limit])
    others = ", the others being in `review.json`" if len(shown) < len(own) else ""
    # Of an overlooked object there is no label.
    asked = "" if kind == IssueKind.OVERLOOKED else " the one in question is green,"
    yield Text(
        f"The first {len(shown)} of {len(own)}{others}. Labels are blue,{asked} and the detection "
        "is orange.",
        "note",
    )
    if shown:
        yield Gallery(shown)
    if unreadable:
        yield Text(
            f"Left out: {counted(len(unreadable), 'image')} that cannot be read, such as "
            f"{unreadable[0]}.",
            "note",
        )
