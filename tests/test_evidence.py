"""The tables of docs/results.md are those that the raw results give."""

import runpy

from models import ROOT


def test_the_table_of_single_methods_is_made_of_the_raw_results():
    made = runpy.run_path(str(ROOT / "benchmarks" / "evidence" / "methods_table.py"))
    lines = list(made["rows"](made["paired"](made["RESULTS"] / name for name in made["FILES"])))
    assert len(lines) > 30
    written = (ROOT / "docs" / "results.md").read_text()
    assert "\n".join(lines) in written
