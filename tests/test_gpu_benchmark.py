"""The benchmark for a machine with a GPU, run on the CPU at tiny sizes."""

import json

import pytest
import torch

import gpu


@pytest.mark.slow
def test_every_part_is_measured_and_written_as_lines_and_tables(tmp_path, capsys):
    gpu.main(["--device", "cpu", "--turns", "1", "--out", str(tmp_path)])
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    sides = {(line["part"], line["side"]) for line in lines}
    assert {
        ("training step", "stock, float32"),
        ("training step", "full, bfloat16"),
        ("loss", "F.cross_entropy"),
        ("loss", "registered loss"),
        ("anchor sampler", "ohem"),
        ("inference", "full, channels last, bfloat16"),
    } <= sides
    assert all(line["milliseconds"] > 0 and line["peak_megabytes"] > 0 for line in lines)
    assert {line["card"] for line in lines} == {"CPU, tiny sizes"}
    tables = (tmp_path / "gpu.md").read_text()
    assert tables in capsys.readouterr().out
    assert tables.startswith("# CPU, tiny sizes") and tables.count("\n| ") >= len(lines)


def test_a_machine_without_a_gpu_is_told_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"no GPU here: .* give --device cpu"):
        gpu.main(["--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
