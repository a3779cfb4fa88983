"""The rules of the house that can be counted: who may import whom, how large things are, and what they are called."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "openvlt"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = """types errors findings distributed config storage verify data serving model rollout reward trackers trainer sft grpo
distill benchmark memory runs iteration duration report cli""".split()
SUBROOMS = {  # what is in the room's own folder comes last
    "verify": "parse denial_words denials options extract grade".split(),
    "grpo": "parts".split(),
    "data": "errors pixels images image_places rows sources synthetic".split(),
    "model": "hf_types transformers_range families checkpoint_files processor weights load shared_prefix".split(),
    "distill": "writers".split(),
}
STANDARD = {"__future__", "collections", "dataclasses", "functools", "math", "typing"}
IRREGULAR = "begun built chosen done drawn found given gone held kept known made meant said seen sent shown taken told written"
PARTICIPLE = re.compile(  # on its own, or with the particle of its verb; "kept_groups" is a noun, "read_scored" a verb
    rf"_*(?!(seed|feed|need|speed|embed|proceed)\b)([a-z0-9]*ed|{IRREGULAR.replace(' ', '|')})(_(up|out|in|on|off|by|to|of|away|back))?"
)


@cache
def syntax(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def name_of(file: Path) -> str:
    """The dotted name of a module."""
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(file) for file in FILES}


def imports(file: Path, *, for_types: bool = True) -> set[str]:
    """Modules a file imports, anywhere in it; of a package the module that is meant. `for_types=False` leaves out what only types need."""
    blocks = [node for node in ast.walk(syntax(file)) if isinstance(node, ast.If)]
    typing = [node for node in blocks if "TYPE_CHECKING" in ast.unparse(node.test)]
    left_out = set() if for_types else {below for node in typing for below in ast.walk(node)}
    names: set[str] = set()
    for node in set(ast.walk(syntax(file))) - left_out:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= below & MODULES or {node.module}
    return names


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions and methods of a file; properties are values, not functions."""
    for node in ast.walk(syntax(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
            if not decorators & {"property", "cached_property", "functools.cached_property"}:
                yield node


# --- imports ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_above_it(file: Path) -> None:
    here = name_of(file).split(".")
    if len(here) == 1 or here[1] == "__main__":
        return
    for module in (module.split(".") for module in imports(file) if module.startswith("openvlt.")):
        if module[1] != here[1]:
            assert ROOMS.index(module[1]) < ROOMS.index(here[1]), f"{file} imports {'.'.join(module)}"
        elif (order := SUBROOMS.get(here[1])) and len(here) > 2 and here[2] in order:
            allowed = order[: order.index(here[2]) + 1]
            assert module[2:3] in ([room] for room in allowed), f"{file} imports {'.'.join(module)}"


def test_no_module_imports_itself_in_a_circle() -> None:
    needed = {name_of(file): imports(file, for_types=False) & MODULES - {name_of(file)} for file in FILES}
    TopologicalSorter(needed).prepare()


def test_the_mathematics_imports_only_torch() -> None:
    allowed = {"torch", "openvlt.types", "openvlt.errors"}
    for file in (PACKAGE / "grpo" / "parts").glob("*.py"):
        others = {module for module in imports(file) if not module.startswith("openvlt.grpo.parts")}
        heavy = {module for module in others if module.split(".")[0] not in STANDARD}
        assert heavy <= allowed, f"{file} imports {sorted(heavy - allowed)}"


def test_the_verifier_imports_no_tensors() -> None:
    modules = {
        module.split(".")[0] for file in (PACKAGE / "verify").rglob("*.py") for module in imports(file)
    }
    assert not modules & {"torch", "transformers", "numpy"}


# --- sizes --------------------------------------------------------------------------------------------------------------


def test_folders_are_small() -> None:
    sizes = {folder: len(list(folder.glob("[!_]*.py"))) for folder in {file.parent for file in FILES}}
    assert {str(folder): size for folder, size in sizes.items() if size > 14} == {}


def test_functions_are_short() -> None:
    long = {
        f"{name_of(file)}.{function.name}": lines
        for file in FILES
        for function in functions(file)
        if (lines := function.end_lineno - function.lineno + 1) > 50
    }
    assert long == {}


# --- names --------------------------------------------------------------------------------------------------------------


def public_names(file: Path) -> Iterator[str]:
    """What a module defines at its top for others."""
    for node in syntax(file).body:
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        yield from (name for name in names if not name.startswith("_"))


def test_a_public_name_means_one_thing() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for file in FILES:
        if file.name != "__main__.py":
            for name in public_names(file):
                found[name].append(name_of(file))
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}


def test_functions_are_not_named_by_participles() -> None:
    named = [
        f"{name_of(file)}.{function.name}"
        for file in FILES
        for function in functions(file)
        if PARTICIPLE.fullmatch(function.name)
    ]
    assert named == []


def test_tests_mirror_the_package() -> None:
    folders = {file.parent.relative_to(TESTS) for file in TESTS.rglob("test_*.py")} - {
        Path("notebooks"),
        Path("docs"),
    }
    assert [str(folder) for folder in sorted(folders) if not (PACKAGE / folder).is_dir()] == []
