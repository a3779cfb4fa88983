"""Imports between rooms go one way: a room imports only rooms above it in this list."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "openvlt"
ROOMS = """types errors distributed config storage verify data serving model rollout reward trainer sft grpo
distill benchmark memory runs iteration report cli""".split()
PURE = {
    "grpo/parts/traits.py": {"functools", "typing"},
    "grpo/parts/loss.py": {"torch", "openvlt.grpo.parts.traits"},
    "grpo/parts/advantage.py": {"torch", "openvlt.grpo.parts.traits"},
    "grpo/parts/kl.py": {"torch"},
    "grpo/parts/loss_aggregation.py": {"torch", "openvlt.types", "openvlt.grpo.parts.traits"},
}


def imported(file: Path) -> set[str]:
    """Modules a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_a_room_imports_only_rooms_above_it(file: Path) -> None:
    here = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if here == "__init__":
        return
    for module in imported(file):
        if module.startswith("openvlt.") and room(module) != here:
            assert ROOMS.index(room(module)) < ROOMS.index(here), f"{file.name} imports {module}"


@pytest.mark.parametrize("name, allowed", PURE.items())
def test_the_mathematics_imports_only_torch(name: str, allowed: set[str]) -> None:
    heavy = {
        module
        for module in imported(PACKAGE / name)
        if module not in ("__future__", "collections.abc", "dataclasses")
    }
    assert heavy <= allowed


def test_the_verifier_knows_no_torch() -> None:
    modules = {module for file in (PACKAGE / "verify").rglob("*.py") for module in imported(file)}
    assert not any(module.split(".")[0] in ("torch", "transformers", "numpy") for module in modules)
