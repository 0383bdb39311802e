"""Every key that the program reads refuses values that it cannot use, by name, before it starts."""

import pytest

from counterpoise.config.declaration import Choices, Interval, Numbers, declared
from counterpoise.config.detectron2_keys import DETECTRON2_KEYS
from counterpoise.config.keys import SECTIONS
from counterpoise.config.launcher_keys import LAUNCHER_SECTIONS
from counterpoise.config.loading import load_config
from counterpoise.config.tree import flat_leaves
from counterpoise.config.validation import check_config
from counterpoise.errors import UserError

DEFAULTS = dict(flat_leaves(load_config([])))
ALLOWED = {
    **{key: entry.allowed for key, entry in declared((*SECTIONS, *LAUNCHER_SECTIONS)).items()},
    **{key: allowed for key, allowed in DETECTRON2_KEYS.items() if key in DEFAULTS},
}

NUMBERS = ["-1e9", "-2", "-0.5", "1e400", "float('nan')", "'text'", "None", "[]", "{}"]
LISTS = ["()", "(0, 'a')", "((),)", "(-1e9,)", "'text'", "1e400", "(float('nan'),) * 4", "None"]


def spoilt(key: str) -> list[str]:
    """Values that a key does not allow, as they are typed."""
    allowed, default = ALLOWED[key], DEFAULTS.get(key)
    if isinstance(default, bool):
        return ["2", "maybe", "None", "[True]"]
    if isinstance(allowed, Choices):
        return ["nonsense", "", "None"] if isinstance(default, str) else ["-3", "nonsense"]
    if isinstance(default, (list, tuple)) and isinstance(allowed, (Interval, Numbers)):
        may_be_empty = isinstance(allowed, Interval) or allowed.empty
        return [value for value in LISTS if not (value == "()" and may_be_empty)]
    if isinstance(allowed, Interval):
        numbers = [v for v in ("-1e9", "-2", "-0.5") if float(v) not in allowed]
        beyond = [str(allowed.high + 1)] if allowed.high < 1e300 else []
        return [*numbers, *beyond, *NUMBERS[3:]]
    return []


CASES = [(key, value) for key in ALLOWED for value in spoilt(key)]


def test_there_are_hundreds_of_cases():
    assert len(CASES) > 700
    assert len({key for key, _ in CASES}) > 100


@pytest.mark.parametrize("key", sorted({key for key, _ in CASES}))
def test_a_value_that_cannot_be_used_is_refused_by_its_key(key):
    for value in spoilt(key):
        with pytest.raises(UserError) as raised:
            check_config(load_config([], [key, value]))
        sentence = str(raised.value)
        assert key in sentence and "\n" not in sentence and len(sentence) < 600, value
