"""Imports point downward only: the core knows torch, and nothing of Detectron2."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "plugin" / "counterpoise"

#: Each may import what stands above it here, and itself.
LAYERS = [
    "errors",
    "utils",
    "balance",
    "evaluation",
    "pages",
    "datasets",
    "modeling",
    "config",
    "inference",
    "training",
    "inspection",
    "reporting",
    "comparison",
    "commands",
]
WITHOUT_DETECTRON2 = ("errors", "utils", "balance", "evaluation", "pages")


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


def files_of(layer: str) -> list[Path]:
    single = PACKAGE / f"{layer}.py"
    return [single] if single.is_file() else sorted((PACKAGE / layer).rglob("*.py"))


def test_every_module_belongs_to_a_layer():
    listed = {path for layer in LAYERS for path in files_of(layer)}
    assert set(PACKAGE.rglob("*.py")) - listed == {PACKAGE / "__init__.py"}


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_downward(layer):
    below = {f"counterpoise.{name}" for name in LAYERS[: LAYERS.index(layer) + 1]}
    for path in files_of(layer):
        own = {name for name in imported_modules(path) if name.startswith("counterpoise.")}
        upward = {name for name in own if ".".join(name.split(".")[:2]) not in below}
        assert not upward, path


def test_the_core_imports_only_itself_torch_and_the_standard_library():
    for path in files_of("balance"):
        roots = {name.split(".")[0] for name in imported_modules(path)}
        assert roots <= {"torch", "math", "warnings", "collections", "dataclasses", "counterpoise"}


@pytest.mark.parametrize("layer", WITHOUT_DETECTRON2)
def test_scoring_and_pages_need_no_detectron2(layer):
    for path in files_of(layer):
        assert not any(name.startswith("detectron2") for name in imported_modules(path)), path
