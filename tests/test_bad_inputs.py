"""Every spoilt dataset and file of a run is answered in a sentence, and nothing is changed."""

import hashlib
import shutil
import signal
from pathlib import Path

import pytest

from bad_inputs import ANNOTATIONS, DATASET_CASES, WRITERS, mutated, of_every_file
from counterpoise.commands.console import main
from counterpoise.datasets import dataset_report, load_dataset, parse_specs, register_datasets
from counterpoise.errors import UserError
from counterpoise.reporting.run_files import Run

# Cases in which nothing is wrong: the image is found by its base name below IMAGES, an XML that is
# not there takes its image out of the set (a note says so), and no label means background.
HARMLESS = {
    "coco": {"file_name up", "file_name url"},
    "voc": {"an XML: missing", "an XML: a folder"},
    "yolo": {"a label: empty", "a label: missing", "a label: a folder"},
}

#: Files of a run that are read again.
RUN_FILES = {
    name: name
    for name in (
        "metrics.json",
        "run.json",
        "config.yaml",
        "class_losses.jsonl",
        "inference/shapes_val/ground_truth.json",
        "inference/shapes_val/detections.json",
        "inference/shapes_val/context.json",
        "inference/shapes_val/time.json",
    )
}
RUN_CASES = of_every_file(RUN_FILES)


def state(folder: Path) -> str:
    """Digest of all names and contents below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode(errors="surrogateescape"))
        digest.update(str(path.lstat().st_mtime_ns).encode())
        if path.is_file() and not path.is_symlink():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def assert_sentence(sentence: str) -> None:
    assert "\n" not in sentence and sentence.isprintable() and len(sentence) < 3000
    assert ":" in sentence or "'" in sentence or "/" in sentence  # names a file or a key


@pytest.fixture(autouse=True)
def no_hang():
    def too_long(*_) -> None:
        raise TimeoutError("a case hangs")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(60)
    yield
    signal.alarm(0)


def read(kind: str, root: Path, entry: dict) -> str:
    """Read a dataset: the sentence that refuses it, or what is said of invalid annotations."""
    register_datasets(parse_specs({"spoilt": entry}), classes=None)
    try:
        load_dataset("spoilt")
    except UserError as error:
        assert_sentence(str(error))
        return str(error)
    report = dataset_report("spoilt")
    for found in report.invalid_annotations:
        assert_sentence(str(found))
    assert report.images <= 3
    return "; ".join(map(str, report.invalid_annotations))


@pytest.mark.parametrize(
    "kind, name", [(kind, name) for kind, cases in DATASET_CASES.items() for name in cases]
)
def test_a_spoilt_dataset_is_refused_or_its_bad_part_counted(kind, name, tmp_path):
    entry = WRITERS[kind](tmp_path / "data")
    DATASET_CASES[kind][name](tmp_path / "data")
    before = state(tmp_path / "data")
    said = read(kind, tmp_path / "data", entry)
    assert bool(said) != (name in HARMLESS[kind])
    assert state(tmp_path / "data") == before


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_annotations_with_bytes_changed_at_random_never_end_in_a_traceback(kind, tmp_path):
    root = tmp_path / "data"
    entry = WRITERS[kind](root)
    path = root / ANNOTATIONS[kind]
    whole = path.read_bytes()
    for seed in range(300):
        path.write_bytes(mutated(whole, seed))
        read(kind, root, entry | {"CLASSES": ["cat", f"seed {seed}"]})


def sentence_of(action) -> str:
    """What a UserError of an action says; nothing where there is none."""
    try:
        action()
    except UserError as error:
        return str(error)
    return ""


@pytest.fixture
def spoilt_run(run, tmp_path):
    """A copy of a finished run, without its weights."""
    folder = tmp_path / "run"
    shutil.copytree(run[1], folder, ignore=shutil.ignore_patterns("*.pth", "*.html", "events.*"))
    assert all((folder / name).is_file() for name in RUN_FILES)
    return folder


@pytest.mark.parametrize("name", RUN_CASES)
def test_a_spoilt_file_of_a_run_is_refused_by_name_or_left_out(name, spoilt_run):
    RUN_CASES[name](spoilt_run)
    spoilt = Path(name.split(": ")[0]).name
    parts = ("metrics", "class_losses", "record", "config")
    for read_part in (
        *(lambda part=part: getattr(Run(spoilt_run), part) for part in parts),
        lambda: Run(spoilt_run).test_set("shapes_val"),
    ):
        said = sentence_of(read_part)
        if said:
            assert_sentence(said)
            assert spoilt in said


@pytest.mark.parametrize("file", ["config.yaml", "inference/shapes_val/detections.json"])
@pytest.mark.parametrize("command", ["report", "compare"])
def test_the_command_line_answers_a_spoilt_run_with_exit_code_2(command, file, spoilt_run, capsys):
    (spoilt_run / file).write_bytes(b"[" * 20_000)
    assert main([command, *[str(spoilt_run)] * (1 + (command == "compare"))]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_there_are_hundreds_of_cases():
    assert sum(map(len, DATASET_CASES.values())) + len(RUN_CASES) > 500
