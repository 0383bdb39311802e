"""A wheel, installed where there is no checkout, is a complete Counterpoise."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from counterpoise.config.packaged import packaged_configs
from counterpoise.training.run_record import RunRecord
from models import ROOT
from runs import SMALL, write_dataset


def call(*command, cwd):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder bin/ of a clean environment with the wheel beside this environment's Detectron2."""
    if tuple(map(int, version("setuptools").split(".")[:2])) < (70, 1):
        pytest.skip("setuptools before 70.1 builds no wheel by itself")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools would take files of an earlier build in the checkout
    for name in ("plugin", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    offline = ("--no-deps", "--no-index")
    wheels = folder / "wheels"
    build = ("wheel", *offline, "--no-build-isolation", "-w", wheels, source)
    call(*pip, *build, cwd=folder)
    (wheel,) = wheels.glob("*.whl")
    shutil.rmtree(source)
    venv.create(folder / "env", symlinks=True)
    python = folder / "env" / "bin" / "python"
    call(*pip, "--python", python, "install", *offline, wheel, cwd=folder)
    # Lines of a .pth file come behind the environment's own packages, and no .pth file beside those
    # packages is read, such as that of an editable Counterpoise.
    others = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    others |= {str(Path(find_spec(name).origin).parents[1]) for name in ("detectron2", "torch")}
    (site_packages,) = (folder / "env").glob("lib/python*/site-packages")
    (site_packages / "others.pth").write_text("\n".join(others))
    return folder / "env" / "bin"


def test_the_wheel_brings_templates_and_configs(installed, tmp_path):
    code = "import counterpoise; print(counterpoise.__file__)"
    package = Path(call(installed / "python", "-c", code, cwd=tmp_path).strip()).parent
    assert installed.parent in package.parents
    expected = {f"configs/{name}" for name in packaged_configs()}
    templates = ROOT / "plugin" / "counterpoise" / "pages" / "templates"
    expected |= {f"pages/templates/{path.name}" for path in templates.iterdir()}
    assert {name for name in expected if not (package / name).is_file()} == set()
    shown = call(installed / "counterpoise", "train", "--help", cwd=tmp_path)
    assert str(package / "configs") in shown


def test_the_installed_command_trains_two_steps_by_a_packaged_config(installed, tmp_path):
    data = write_dataset(tmp_path / "shapes")
    call(
        installed / "counterpoise", "train", "--config-file", "quick/focal_weights.yaml",
        "--config-file", data, *SMALL, "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", "out", cwd=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "out" / "model_final.pth").is_file()
    assert (tmp_path / "out" / "report.html").is_file()
    record = RunRecord.read(tmp_path / "out" / "run.json")
    assert record.command.startswith("counterpoise train --config-file quick/focal_weights.yaml ")
    assert record.finished is not None
