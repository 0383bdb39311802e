"""The set-up script decides rightly, recovers from interruptions, and says what to do."""

import ast
import dataclasses
import os
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import setup_env
from setup_env import SetupError

PINS = "# tested\nnumpy==2.4.6\ntorch==2.14.1\ntorchvision==0.29.1\n"
DECLARED = ["numpy", "opencv-python>=4.8", "PyYAML>=5.1", "torch>=2.4", "yacs"]
NO_LIBGL = "ImportError: libGL.so.1: cannot open shared object file: No such file or directory"


def environment(owned=False, installed=(), modules=(), site_packages="site-packages"):
    return setup_env.Environment(
        python=Path("env/bin/python"),
        version=(3, 11, 7),
        site_packages=Path(site_packages),
        installed=dict(installed),
        modules=frozenset(modules),
        owned=owned,
    )


class RecordingSession:
    """Stands in for a session; ``pip`` records its arguments and may do something besides."""

    def __init__(self, effect=lambda: None):
        self.said, self.pip_calls, self._effect = [], [], effect

    def say(self, text):
        self.said.append(text)

    def pip(self, env, *arguments):
        self.pip_calls.append(arguments)
        self._effect()


# --- what the project's own files promise ---------------------------------------------------------


def test_script_parses_on_a_python_that_it_refuses():
    ast.parse(Path(setup_env.__file__).read_text(encoding="utf-8"), feature_version=(3, 8))


def test_every_requirement_has_a_pin_within_its_range():
    lines = setup_env.CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = {setup_env.canonical_name(line): line.split("==")[1] for line in lines if "==" in line}
    for line in setup_env.declared_requirements(setup_env.SETUP_PY.read_text(encoding="utf-8")):
        assert pins[setup_env.canonical_name(line)] in Requirement(line).specifier, line
    assert pins[setup_env.HEADLESS] == pins["opencv-python"]


def test_detectron2s_model_zoo_finds_what_it_imports():
    pins = map(Requirement, setup_env.CONSTRAINTS.read_text().splitlines()[5:])
    (setuptools,) = [pin for pin in pins if pin.name == "setuptools"]
    assert all(SpecifierSet("<82").contains(own.version) for own in setuptools.specifier)


def test_oldest_python_is_that_of_setup_py():
    text = setup_env.SETUP_PY.read_text(encoding="utf-8")
    accepted = SpecifierSet(text.split('python_requires="')[1].split('"')[0])
    major, minor = setup_env.OLDEST_PYTHON
    assert f"{major}.{minor}" in accepted
    assert f"{major}.{minor - 1}" not in accepted


# --- decisions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 8, 18), (3, 10), (3, 15, 0)])
def test_python_without_wheels_of_the_pins_is_refused(version):
    with pytest.raises(
        SetupError, match=rf"Python 3\.{version[1]} .* from 3\.11 to 3\.14 .*PYTHON"
    ):
        setup_env.check_pinned_python(version)


@pytest.mark.parametrize("version", [(3, 11, 7), (3, 14)])
def test_python_with_wheels_of_the_pins_is_accepted(version):
    setup_env.check_pinned_python(version)


def test_disk_that_pytorch_would_fill_is_refused_in_gigabytes():
    setup_env.check_disk(9_000_000_000, Path("env"), needed_gb=9)
    with pytest.raises(SetupError, match=r"takes 9 GB and the disk of env has 8\.9 GB free; free"):
        setup_env.check_disk(8_900_000_000, Path("env"), needed_gb=9)


def test_requirements_are_read_from_setup_py_without_running_it():
    text = 'raise SystemExit\nsetup(install_requires=["b<2"], extras_require={"dev": ["c"]})'
    assert setup_env.declared_requirements(text) == ["b<2", "c"]


@pytest.mark.parametrize(
    "line, name",
    [("PyYAML>=5.1", "pyyaml"), ("a_b.C[x]==1", "a-b-c"), ("tqdm>4", "tqdm"), ("yacs", "yacs")],
)
def test_names_are_canonical(line, name):
    assert setup_env.canonical_name(line) == name


def test_kept_environment_gets_only_what_is_neither_installed_nor_importable():
    env = environment(
        installed={"numpy": "1.26.4", "opencv-python-headless": "4.9.0.80"},
        modules={"numpy", "cv2", "torch"},  # torch as a package that pip does not know
    )
    assert setup_env.requirements_to_install(env, DECLARED) == ["PyYAML>=5.1", "yacs"]


def test_owned_environment_is_asked_for_everything_so_that_new_pins_take_effect():
    env = environment(owned=True, installed={"torch": "2.13.0"}, modules={"torch"})
    assert setup_env.requirements_to_install(env, DECLARED) == DECLARED


def test_owned_environment_with_headless_opencv_stays_headless():
    env = environment(owned=True, installed={"opencv-python-headless": "5.0.0.93"})
    wanted = setup_env.requirements_to_install(env, DECLARED)
    assert "opencv-python-headless>=4.8" in wanted
    assert "opencv-python>=4.8" not in wanted


@pytest.mark.parametrize("own", ["torch", "detectron2"])
def test_environment_with_its_own_pytorch_or_detectron2_is_frozen_and_gets_no_pins(own):
    installed = {"torch": "2.5.1+cu121", "numpy": "1.26.4", "inhouse": "unknown-build"}
    text = setup_env.constraints_for(environment(installed=installed, modules={own}), PINS)
    assert text.splitlines() == ["numpy==1.26.4", "torch==2.5.1+cu121"]


def test_existing_environment_without_pytorch_keeps_what_it_has_and_gets_pins_for_the_rest():
    text = setup_env.constraints_for(environment(installed={"numpy": "2.3.0"}), PINS)
    assert text.splitlines() == ["numpy==2.3.0", "torch==2.14.1", "torchvision==0.29.1"]


def test_owned_environment_follows_the_pins():
    env = environment(owned=True, installed={"torch": "2.13.0"}, modules={"torch"})
    assert setup_env.constraints_for(env, PINS) == PINS


@pytest.mark.parametrize("changed", range(len(setup_env.DEFINING_FILES)))
def test_fingerprint_changes_with_each_defining_file(tmp_path, changed):
    copies = []
    for source in setup_env.DEFINING_FILES:
        copies.append(tmp_path / source.name)
        copies[-1].write_bytes(source.read_bytes())
    before = setup_env.fingerprint(copies)
    assert setup_env.fingerprint(copies) == before
    with copies[changed].open("a") as file:
        file.write("\n")
    assert setup_env.fingerprint(copies) != before


def test_fingerprint_changes_when_the_checkout_moves():
    assert setup_env.fingerprint((), Path("/a")) != setup_env.fingerprint((), Path("/b"))


def test_environment_is_current_only_with_matching_stamp_and_a_python(tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    assert not setup_env.is_current(tmp_path, "hash")
    (tmp_path / "setup.stamp").write_text("hash")
    assert setup_env.is_current(tmp_path, "hash")
    assert not setup_env.is_current(tmp_path, "other hash")
    python.unlink()
    python.symlink_to(tmp_path / "uninstalled")
    assert not setup_env.is_current(tmp_path, "hash")


@pytest.mark.parametrize(
    "output, told",
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "disk is full"),
        (
            "WARNING: Retrying: NewConnectionError('Failed to establish')\n"
            "ERROR: No matching distribution found for yacs",
            "check the network",
        ),
        ("ERROR: No matching distribution found for torch==2.14.1", "Python 3.11 on x86_64"),
        ("ERROR: ResolutionImpossible: for help visit", "no versions that fit"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM", "pip cache purge"),
        ("not created successfully because ensurepip is not\navailable.", "python3-venv"),
        ("ERROR: Failed building wheel for pycocotools", "C compiler"),
        ("something new", "read the end of its output"),
    ],
)
def test_failure_is_reported_with_its_fix(output, told):
    cause = setup_env.failure_cause(output)
    assert told in cause
    assert "\n" not in cause


@pytest.mark.parametrize(
    "line, told",
    [
        (
            "  Downloading torch-2.14.1-cp311-cp311-manylinux_2_28_x86_64.whl (554.6 MB)\n",
            "downloading torch 2.14.1 (554.6 MB)",
        ),
        ("  Downloading numpy-2.4.6-cp311-cp311-linux_x86_64.whl (16.9 MB)\n", None),
        (f"Installing collected packages: {', '.join('abcdefghijkl')}\n", "unpacking 12 packages"),
        ("Installing collected packages: yacs\n", None),
        ("Collecting yacs\n", None),
    ],
)
def test_only_long_steps_of_pip_are_shown(line, told):
    assert setup_env.pip_progress(line) == told


# --- actions --------------------------------------------------------------------------------------


@pytest.fixture
def opencv(monkeypatch):
    """Sets what importing cv2 prints, call by call, with opencv-python 5.0.0.93 installed."""

    def script(*errors):
        answers = iter(errors)
        monkeypatch.setattr(setup_env, "import_error", lambda python, modules: next(answers))
        installed = environment(installed={"opencv-python": "5.0.0.93"})
        monkeypatch.setattr(setup_env, "inspect_environment", lambda prefix: installed)

    return script


def test_opencv_that_imports_is_left_alone(opencv):
    opencv("")
    session = RecordingSession()
    setup_env.settle_opencv(environment(owned=True), Path("env"), session)
    assert not session.pip_calls


@pytest.mark.parametrize("env", [environment(owned=True, modules={"cv2"}), environment()])
def test_opencv_that_set_up_installed_gives_way_to_its_headless_build(opencv, env):
    opencv(NO_LIBGL, "")
    session = RecordingSession()
    setup_env.settle_opencv(env, Path("env"), session)
    assert session.pip_calls == [
        ("uninstall", "--yes", "opencv-python"),
        ("install", "--no-deps", "opencv-python-headless==5.0.0.93"),
    ]
    assert len(session.said) == 1
    assert "libGL.so.1 is missing" in session.said[0]


@pytest.mark.parametrize("error", [NO_LIBGL, "ImportError: numpy.core failed to import"])
def test_broken_opencv_of_a_kept_environment_is_reported_and_not_replaced(opencv, error):
    opencv(error)
    session = RecordingSession()
    with pytest.raises(SetupError, match=r"cv2 of env does not import .*apt-get install"):
        setup_env.settle_opencv(environment(modules={"cv2"}), Path("env"), session)
    assert not session.pip_calls


def test_opencv_that_headless_does_not_fix_is_reported(opencv):
    opencv(NO_LIBGL, NO_LIBGL.replace("libGL", "libz"))
    with pytest.raises(SetupError, match=r"libz\.so\.1"):
        setup_env.settle_opencv(environment(owned=True), Path("env"), RecordingSession())


def test_kept_environment_is_refused_only_for_versions_that_counterpoise_cannot_use(tmp_path):
    python = tmp_path / "python"
    env = dataclasses.replace(environment(), python=python)

    def checked(*lines):
        python.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\nexit 1\n")
        python.chmod(0o755)
        setup_env.check_versions(env, Path("env"))

    checked(
        "sal-detectron2 0.7.2 has requirement numpy<2, but you have numpy 2.4.6.",
        "counterpoise 1.0.0 requires opencv-python, which is not installed.",  # as in conda
    )
    with pytest.raises(
        SetupError,
        match=r"^env has torch 2\.1\.0\+cu118, where torch>=2\.4 is needed; fvcore 0\.2, where "
        r"fvcore<0\.1\.6,>=0\.1\.5 is needed; change this there, or leave VENV out",
    ):
        checked(
            "counterpoise 1.0.0 has requirement torch>=2.4, but you have torch 2.1.0+cu118.",
            "counterpoise 1.0.0 has requirement fvcore<0.1.6,>=0.1.5, but you have fvcore 0.2.",
        )


def test_packages_whose_installation_was_interrupted_are_forgotten(tmp_path):
    for name in ("done-1.dist-info", "half-1.dist-info", "~orch", "torch"):
        (tmp_path / name).mkdir()
    (tmp_path / "done-1.dist-info" / "INSTALLER").write_text("pip\n")
    assert setup_env.remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"done-1.dist-info", "torch"}
    assert not setup_env.remove_unfinished(tmp_path)


def test_detectron2_replaces_leftovers_and_brings_no_other_package(tmp_path):
    site_packages, staging = tmp_path / "site-packages", tmp_path / "staging"
    (site_packages / "sal_detectron2-0.7.2.dist-info").mkdir(parents=True)
    (site_packages / "tools").mkdir()
    (site_packages / "tools" / "mine.py").touch()
    staging.mkdir()
    (staging / "half").touch()  # of an interrupted run

    def unpack():
        for file in ("detectron2/a.py", "tools/b.py", "sal_detectron2-0.7.2.dist-info/METADATA"):
            (staging / file).parent.mkdir(parents=True)
            (staging / file).touch()

    env = environment(site_packages=site_packages)
    setup_env.install_detectron2(env, staging, RecordingSession(unpack))
    files = {str(p.relative_to(site_packages)) for p in site_packages.rglob("*") if p.is_file()}
    assert files == {"detectron2/a.py", "sal_detectron2-0.7.2.dist-info/METADATA", "tools/mine.py"}
    assert not staging.exists()


def test_folder_with_other_contents_is_refused_and_an_unfinished_environment_taken_up(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(setup_env, "check_pinned_python", lambda version: None)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SetupError, match="not empty"):
        setup_env.create_environment(tmp_path)
    (tmp_path / "setup.owned").touch()
    setup_env.create_environment(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_environment_is_described_by_its_own_python(tmp_path):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    # Through a link Python would look for packages beside it, so a script passes the call on.
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    env = setup_env.inspect_environment(tmp_path, {"pytest", "no_such_module"})
    assert env.version[:2] == sys.version_info[:2]
    assert env.installed["pytest"] == pytest.__version__
    assert env.modules == {"pytest"}
    assert not env.owned


def test_environment_whose_python_is_gone_is_reported(tmp_path):
    with pytest.raises(SetupError, match="does not run; remove"):
        setup_env.inspect_environment(tmp_path)


def test_failed_command_names_the_log_that_holds_its_output(tmp_path):
    log = tmp_path / "setup.log"
    session = setup_env.Session(log)
    session.run(sys.executable, "-c", "print('went well')")
    with pytest.raises(SetupError, match=r"check the network .*setup\.log"):
        session.run(sys.executable, "-c", "raise ConnectionError")
    assert "went well" in log.read_text()
    assert "raise ConnectionError" in log.read_text()


@pytest.mark.parametrize(
    "stop, code, said",
    [
        (SetupError("no luck; try again"), 2, "set-up stopped: no luck; try again\n"),
        (OSError(28, "No space left on device"), 2, "set-up stopped: No space left on device"),
        (KeyboardInterrupt(), 130, "set-up interrupted"),
    ],
)
def test_a_set_up_that_stops_says_so_in_a_line_and_leaves_no_stamp(
    tmp_path, monkeypatch, capsys, stop, code, said
):
    def fail(prefix, session):
        raise stop

    monkeypatch.setattr(setup_env, "complete", fail)
    monkeypatch.setattr(setup_env.signal, "signal", lambda *_: None)
    (tmp_path / "bin").mkdir()
    os.symlink(sys.executable, tmp_path / "bin" / "python")
    (tmp_path / "setup.stamp").write_text("of an older set-up")
    assert setup_env.main([str(tmp_path)]) == code
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert err.count("\n") == 1
    assert not (tmp_path / "setup.stamp").exists()


def test_second_call_does_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(setup_env, "complete", lambda prefix, session: None)
    monkeypatch.setattr(setup_env.signal, "signal", lambda *_: None)
    (tmp_path / "bin").mkdir()
    os.symlink(sys.executable, tmp_path / "bin" / "python")
    assert setup_env.main([str(tmp_path)]) == 0
    assert "is ready" in capsys.readouterr().out
    monkeypatch.setattr(setup_env, "set_up", lambda prefix: pytest.fail("set up again"))
    assert setup_env.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""
