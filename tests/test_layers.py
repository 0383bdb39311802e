"""Imports point downward only: the core knows torch, and nothing of Detectron2."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "plugin" / "counterpoise"
CORE = {"losses", "class_weights", "sampling", "ssd"}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_imports_only_itself_torch_and_the_standard_library(module):
    allowed = {"torch", "math", "warnings", "collections"}
    core = {f"counterpoise.{name}" for name in CORE}
    imported = set(imported_modules(PACKAGE / f"{module}.py"))
    assert {name.split(".")[0] for name in imported - core} <= allowed


#: What scores any detector's results, and what it is shown with.
WITHOUT_DETECTRON2 = ["evaluation", "pages", "errors.py", "files.py", "class_counts.py"]


@pytest.mark.parametrize("part", WITHOUT_DETECTRON2)
def test_scoring_and_pages_need_neither_detectron2_nor_what_builds_on_them(part):
    files = (PACKAGE / part).glob("*.py") if (PACKAGE / part).is_dir() else [PACKAGE / part]
    allowed = tuple(f"counterpoise.{p.removesuffix('.py')}" for p in WITHOUT_DETECTRON2)
    for file in files:
        for name in imported_modules(file):
            assert not name.startswith("detectron2")
            assert not name.startswith("counterpoise.") or name.startswith(allowed)
