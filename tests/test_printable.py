"""Names of files and classes cannot drive a terminal, whatever is in them."""

import logging
import os

import numpy as np
import pytest
from PIL import Image

from counterpoise.commands.console import main
from counterpoise.datasets.class_names import check_class_names
from counterpoise.datasets.invalid_annotations import InvalidAnnotation, InvalidKind
from counterpoise.datasets.report import Report
from counterpoise.errors import UserError
from counterpoise.utils.files import write_atomically
from counterpoise.utils.text import printable

HOSTILE = {
    "colour": "a\x1b[31mb",
    "title": "a\x1b]0;owned\x07b",
    "c1": "a\x9b31mb",
    "return": "safe\rb",
    "backspace": "a\b\bb",
    "null": "a\0b",
    "surrogate": "a\udc80b",
    "direction": "a\u202egnp.b",
    "paragraph": "a\u2029b",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_is_written_as_escapes_everywhere(name, tmp_path):
    found = InvalidAnnotation(InvalidKind.NO_IMAGE, name, f"there is no {name}")
    report = Report(name, "voc", name, invalid_annotations=[found], notes=[name])
    for text in (printable(name), str(found), report.summary()):
        assert "\\" in text and text.replace("\n", "").isprintable()
        text.encode()
    with pytest.raises(UserError, match="not printable") as raised:
        check_class_names(["ok", name], "CLASSES")
    assert str(raised.value).isprintable()
    assert write_atomically(tmp_path / "a.txt", name).is_file()


@pytest.mark.parametrize("name", ["Müller", "细胞", "می‌خواهم", "a\N{ZERO WIDTH JOINER}b", "🙂 x"])
def test_names_of_any_language_stay_as_they_are(name):
    assert printable(name) == name and check_class_names([name], "CLASSES") == (name,)


def test_the_command_line_writes_escapes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging, "lastResort", None)
    (tmp_path / "a\x1b[31m.png").write_bytes(b"no image")
    (tmp_path / os.fsdecode(b"b\x80.png")).write_bytes(b"no image")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "c.png")
    assert main(["predict", str(tmp_path / "gone\x1b]0;owned\x07.png"), "--model", "x.onnx"]) == 2
    said = capsys.readouterr()
    assert "\\x1b]0;owned\\x07" in said.err and "\x1b" not in said.err + said.out
    assert main(["inspect", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "\x1b" not in said.err + said.out
