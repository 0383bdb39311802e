"""The package is as docs/architecture.md says: its layers, and the files and names in it."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "plugin" / "counterpoise"

ARCHITECTURE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()

#: Layer -> whether it may import Detectron2; each may import what stands above it, and itself.
TABLE = {
    name: detectron2 == "yes"
    for name, detectron2 in re.findall(
        r"^\| `(\w+)` \|.*\| (yes|no) \|$", ARCHITECTURE, re.MULTILINE
    )
}
LAYERS = list(TABLE)


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def files_of(layer: str) -> list[Path]:
    single = PACKAGE / f"{layer}.py"
    return [single] if single.is_file() else sorted((PACKAGE / layer).rglob("*.py"))


def test_every_module_belongs_to_a_layer():
    listed = {path for layer in LAYERS for path in files_of(layer)}
    outside = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}
    assert set(PACKAGE.rglob("*.py")) - listed == outside


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_downward(layer):
    below = {f"counterpoise.{name}" for name in LAYERS[: LAYERS.index(layer) + 1]}
    for path in files_of(layer):
        own = {name for name in imported_modules(path) if name.startswith("counterpoise.")}
        layers = {".".join(name.split(".")[:2]) for name in own if name.split(".")[1] in LAYERS}
        upward = layers - below
        assert not upward, path


def test_the_core_imports_only_itself_torch_and_the_standard_library():
    for path in files_of("balance"):
        roots = {name.split(".")[0] for name in imported_modules(path)}
        assert roots <= {"torch", "math", "warnings", "collections", "dataclasses", "counterpoise"}


@pytest.mark.parametrize("layer", [name for name, detectron2 in TABLE.items() if not detectron2])
def test_the_layers_below_detectron2_do_without_it(layer):
    for path in files_of(layer):
        assert not any(name.startswith("detectron2") for name in imported_modules(path)), path


def test_every_file_and_name_that_the_architecture_names_exists():
    named = re.findall(r"`([\w/]+\.py)(?:::([\w.]+))?`", ARCHITECTURE)
    assert len(named) > 15
    for file, name in named:
        path = PACKAGE / file
        if not path.is_file():
            path = PACKAGE.parents[1] / file
        body = ast.parse(path.read_text()).body
        for part in filter(None, name.split(".")):
            found = [node for node in body if getattr(node, "name", None) == part]
            assert found, f"{file}::{name}"
            body = getattr(found[0], "body", [])
