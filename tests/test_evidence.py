"""The tables of docs/results.md are those that the raw results give."""

import runpy

from models import ROOT


def test_the_tables_of_single_methods_are_made_of_the_raw_results():
    made = runpy.run_path(str(ROOT / "benchmarks" / "evidence" / "methods_table.py"))
    lines = list(made["rows"](made["paired"](made["RESULTS"] / name for name in made["FILES"])))
    one_stage = list(made["one_stage_rows"](made["RESULTS"] / made["ONE_STAGE_FILE"]))
    assert len(lines) > 30 and len(one_stage) == 2 + len(made["ONE_STAGE"])
    written = (ROOT / "docs" / "results.md").read_text()
    assert "\n".join(lines) in written and "\n".join(one_stage) in written
