"""Config files of strangers: repeated keys, bombs and loops end in one short sentence."""

import time
from itertools import pairwise

import pytest
import yaml

from counterpoise.config.loading import load_config
from counterpoise.errors import UserError
from counterpoise.utils.yaml_files import load_yaml

BOMB = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    + [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in pairwise("abcdefghij")]
)


@pytest.mark.parametrize(
    "text, said",
    [
        ("SEED: 1\nSEED: 2", "'SEED' stands twice"),
        ("SOLVER:\n  BASE_LR: 1\n  MAX_ITER: 2\n  BASE_LR: 3", "'BASE_LR' stands twice"),
        (BOMB, r"1.2e\+10 values"),
        (f"SOLVER: {{STEPS: *j}}\n{BOMB}", "undefined alias"),
        ("a: &a [*a]", "undefined alias|refers to itself"),
        ("&a {b: *a}", "refers to itself"),
        ("[" * 5000, "too deeply"),
        ("_BASE_: {a: 1}", "_BASE_ must name a file"),
        ("_BASE_: [1, 2]", "_BASE_ must name a file"),
        ("_BASE_: missing.yaml", "missing.yaml"),
        ("_BASE_: config.yaml", "leads back to this file"),
        ("- SEED", "must hold 'KEY: value' pairs"),
        ("\x00", "not valid YAML"),
        ("!!python/object/apply:os.system [true]", "can run code"),
        ("SOLVER: [1]", "SOLVER holds keys"),
        ("1: 2", "unknown key '1'"),
    ],
)  # fmt: skip
def test_a_config_file_that_cannot_be_used_is_answered_by_a_short_sentence(tmp_path, text, said):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(UserError, match=said) as raised:
        load_config([path])
    sentence = str(raised.value)
    assert str(tmp_path) in sentence and len(sentence) < 700 and "\n" not in sentence
    assert time.monotonic() - started < 30


def test_a_merged_key_may_be_overridden_and_shared_parts_are_no_bomb():
    text = "base: &b {x: 1, y: 2}\nown: {<<: *b, x: 3}\nagain: [*b, *b]"
    assert load_yaml(text)["own"] == {"x": 3, "y": 2}


def test_a_file_of_any_size_is_refused_before_it_is_parsed():
    with pytest.raises(yaml.YAMLError, match="characters"):
        load_yaml("#" * 10_000_001)
