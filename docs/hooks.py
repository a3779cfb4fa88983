"""What `mkdocs build` makes besides the pages that are written: the configuration's reference, from `conf/`.

Links that leave `docs/` are shown as text: the site doesn't hold the sources.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"

PAGE = "reference/configuration.md"
HEAD = """# Configuration

Made from `conf/` and the docstrings of what it builds. A group is a folder, and `group=option` chooses one of
its files. A dot leads to a setting inside it: `grpo.steps=30`. `train.py --cfg job` prints all of a run's.
"""


def on_files(files: Any, config: Any) -> Any:
    """Adds the configuration's page."""
    from mkdocs.structure.files import File

    sys.path.insert(0, str(ROOT))  # mkdocs takes back what a hook's file adds
    files.append(File.generated(config, PAGE, content=configuration_page()))
    return files


def on_page_markdown(markdown: str, **context: Any) -> str:
    """Shows links that leave `docs/` as text."""
    return re.sub(r"\[([^\]]*)\]\((?:\.\./)+(?!docs)[^)]*\)", r"\1", markdown)


def configuration_page() -> str:
    """The Markdown of the whole reference: the entry scripts' files first, then the groups."""
    scripts = [CONF / f"{name}.yaml" for name in ("train", "evaluate", "distill", "common")]
    folders = sorted({file.parent for file in CONF.rglob("*.yaml")} - {CONF})
    parts = [HEAD, "## The entry scripts\n", *(file_section(file) for file in scripts)]
    for folder in folders:
        parts.append(f"## `{folder.relative_to(CONF)}`\n")
        parts += [file_section(file) for file in sorted(folder.glob("*.yaml"))]
    return "\n".join(parts)


def file_section(file: Path) -> str:
    """One file: what it says of itself, its settings, and what they build."""
    lines = file.read_text().splitlines()
    count = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    said = " ".join(line.lstrip("# ") for line in lines[:count] if "@package" not in line)
    settings = "\n".join(lines[count:]).strip()
    shown = f"```yaml\n{settings}\n```\n" if settings else ""
    built = "\n".join(describe_target(path) for path in dict.fromkeys(targets(settings)))
    return f"### conf/{file.relative_to(CONF)}\n\n{said}\n\n{shown}\n{built}"


def targets(settings: str) -> Iterator[str]:
    """The callables of the project that a file builds."""
    yield from re.findall(r"_target_: (openvlt[\w.]+)", settings)


def describe_target(path: str) -> str:
    """A callable's arguments with type and default, and its docstring."""
    from hydra.utils import get_object

    target = get_object(path)
    rows = [
        f"| `{name}` | `{_type(parameter)}` | {_default(parameter)} |"
        for name, parameter in inspect.signature(target).parameters.items()
    ]
    said = inspect.cleandoc(target.__doc__ or "")
    table = "\n".join(["| argument | type | default |", "|---|---|---|", *rows]) if rows else ""
    body = "\n".join(f"    {line}".rstrip() for line in f"{said}\n\n{table}".splitlines())
    return f'??? note "{path}"\n\n{body}\n'


def _type(parameter: inspect.Parameter) -> str:
    kind = parameter.annotation
    text = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    return "" if kind is parameter.empty else text.replace("|", "or")


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return "must be given"
    return f"`{getattr(parameter.default, '__name__', parameter.default)!s}`".replace("|", "or")
