"""Config files that come with the package, found where the user has no file of that path."""

from pathlib import Path

import pytest

from counterpoise.config.loading import load_config
from counterpoise.config.packaged import find_config, packaged_configs
from counterpoise.errors import UserError
from models import CONFIGS


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_config_of_the_repository_is_packaged():
    assert packaged_configs() == sorted(
        path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml")
    )


@pytest.mark.parametrize("spelling", ["quick/focal.yaml", "configs/quick/focal.yaml"])
def test_a_packaged_config_loads_by_its_name_with_its_bases(spelling):
    assert load_config([spelling]) == load_config([CONFIGS / "quick" / "focal.yaml"])


@pytest.mark.parametrize("spelling", ["quick/focal.yaml", "configs/quick/focal.yaml"])
def test_a_file_of_the_user_is_preferred(spelling):
    Path(spelling).parent.mkdir(parents=True)
    Path(spelling).write_text("SEED: 77")
    assert load_config([spelling]).SEED == 77


def test_a_config_of_the_user_may_build_on_a_packaged_one_from_any_folder():
    Path("mine").mkdir()
    Path("mine/slow.yaml").write_text("{_BASE_: quick/focal.yaml, SEED: 77}")
    cfg = load_config(["mine/slow.yaml"])
    assert cfg.SEED == 77
    assert load_config(["quick/focal.yaml"]).BALANCE == cfg.BALANCE


def test_only_names_inside_the_folder_of_configs_are_packaged():
    for name in ("../configs/quick/focal.yaml", "quick/../quick/focal.yaml", "focal.yaml"):
        assert find_config(name) == Path(name)


def test_a_name_that_is_neither_here_nor_packaged_is_answered_with_the_closest_ones():
    with pytest.raises(UserError, match=r"quick/focl\.yaml .*did you mean 'quick/focal\.yaml'"):
        load_config(["quick/focl.yaml"])
    with pytest.raises(UserError, match=r"did you mean 'r50_fpn/ohem\.yaml'"):
        load_config(["configs/r50_fpn/ohm.yaml"])


def test_where_other_config_files_are_they_are_the_closest_ones():
    Path("quick").mkdir()
    Path("quick/mine.yaml").write_text("SEED: 1")
    with pytest.raises(UserError, match=r"did you mean 'mine\.yaml'\? \(known: mine\.yaml\)"):
        load_config(["quick/mien.yaml"])
