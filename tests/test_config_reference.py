"""Every key is declared once: its default, its check and its line in the documentation agree."""

import math
import subprocess
import sys

import pytest
from detectron2.config import get_cfg
from fvcore.common.registry import Registry

import counterpoise
from config_reference import reference, row
from counterpoise.balance.losses import check_gamma
from counterpoise.config.declaration import Choices, Interval, Key, declared
from counterpoise.config.keys import DECLARED, GAMMA, SECTIONS, training_config
from counterpoise.config.launcher_keys import LAUNCHER_SECTIONS
from counterpoise.config.tree import flat_leaves, value_at
from counterpoise.config.validation import check_config
from counterpoise.errors import UserError
from counterpoise.modeling.registry import ROI_LOSS_REGISTRY
from models import ROOT


def test_the_documentation_is_what_the_command_makes():
    # In a process of its own: other tests have registered losses and samplers in this one.
    command = [sys.executable, str(ROOT / "tools" / "config_reference.py")]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "docs" / "config.md").read_text()


@pytest.mark.parametrize("name", DECLARED)
def test_every_key_is_documented_with_its_meaning(name):
    section, _, key = name.rpartition(".")
    _, *parts = reference().split("\n## ")
    (part,) = [p for p in parts if p.startswith(f"`{section}`\n") or f"| `{name}` |" in p]
    (line,) = [li for li in part.splitlines() if li.startswith((f"| `{key}` ", f"| `{name}` "))]
    assert DECLARED[name].meaning in line
    assert line.count("|") == 6


def test_the_declarations_are_all_keys_that_are_added():
    added = get_cfg()
    counterpoise.add_counterpoise_config(added)
    before = dict(flat_leaves(get_cfg()))
    new = {key for key, _ in flat_leaves(added)} - before.keys()
    assert new | {"DATASETS.CUSTOM"} == declared(SECTIONS).keys()
    launcher = {key for key, value in flat_leaves(training_config()) if before.get(key) != value}
    assert launcher - new == declared(LAUNCHER_SECTIONS).keys()


@pytest.mark.parametrize("name", DECLARED)
def test_every_default_is_declared_and_allowed(name):
    key = DECLARED[name]
    assert value_at(training_config(), name) == key.default
    if isinstance(key.allowed, Choices):
        assert key.default in key.allowed.known
    elif isinstance(key.allowed, Interval):
        values = key.default if isinstance(key.default, list) else [key.default]
        assert all(value in key.allowed for value in values)


def test_a_default_that_is_changed_in_a_config_stays_in_the_declaration():
    training_config().BALANCE.ROI_LOSS.ALPHA.append(0.5)
    training_config().DATASETS.CUSTOM["mine"] = 1
    assert training_config().BALANCE.ROI_LOSS.ALPHA == [0.25]
    assert training_config().DATASETS.CUSTOM == {}


@pytest.mark.parametrize("name", [n for n, k in DECLARED.items() if k.allowed is not None])
def test_every_declared_restriction_is_checked(name):
    cfg, key = training_config(), DECLARED[name]
    node, wrong = value_at(cfg, name.rpartition(".")[0]), -7
    if isinstance(key.allowed, Choices):
        wrong = "no such name"
    node[name.rpartition(".")[2]] = [wrong] if isinstance(key.default, list) else wrong
    with pytest.raises(
        UserError, match=rf"^{name} is .*(expected (a number|(\d )?numbers) (in|>)|known: )"
    ):
        check_config(cfg)


@pytest.mark.parametrize("gamma", [-0.1, 0.0, 0.5, 2.0, math.nan, math.inf])
def test_a_config_refuses_the_gammas_that_the_losses_refuse(gamma):
    try:
        check_gamma(gamma)
    except ValueError:
        assert gamma not in GAMMA
    else:
        assert gamma in GAMMA


def test_a_name_that_a_user_registers_is_allowed_at_once():
    own = Registry("OWN")
    allowed = Choices(own)
    own.register(len)
    assert allowed.known == ["len"]
    assert "softmax_focal" in Choices(ROI_LOSS_REGISTRY).known


@pytest.mark.parametrize(
    "interval, inside, outside, text",
    [
        (Interval(0), [0, 5, 1e9], [-1e-9, float("inf"), float("nan")], ">= 0"),
        (Interval(0, open_low=True), [1e-9], [0, -1], "> 0"),
        (Interval(0, 1), [0, 1, 0.5], [1.1, -0.1], "in [0, 1]"),
        (Interval(0, 1, open_high=True), [0], [1], "in [0, 1)"),
        (Interval(0, 1, open_low=True), [1], [0], "in (0, 1]"),
        (Interval(0, 1, special=(-1, "is off")), [-1, 0], [-0.5, 2], "in [0, 1]; -1 is off"),
    ],
)
def test_an_interval_knows_its_numbers_and_says_them(interval, inside, outside, text):
    assert all(value in interval for value in inside)
    assert not any(value in interval for value in outside)
    assert str(interval) == text


def test_a_key_without_restriction_has_no_values_in_its_line():
    assert row("K", Key("K", (), "Means.")) == "| `K` | `()` |  | Means. |  |"
