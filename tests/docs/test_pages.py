"""Every command of README and docs can be given, and every link leads somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from openvlt.cli.arguments import normalise_arguments
from openvlt.cli.commands import COMMANDS as CONSOLE
from openvlt.config.resolvers import CONF
from tests.docs.pages import PAGES, READ, ROOT, anchors, commands, links
from tests.helpers.configs import compose

SCRIPTS = ("train.py", "evaluate.py", "distill.py")
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
MADE_UP = {"grpo=clipped_advantage", "benchmark=mine"}  # files that the page has the reader write
COMMANDS = [(page.name, words) for page in READ for words in commands(page) if not MADE_UP & set(words)]


def compose_words(script: str, words: list[str]) -> None:
    """Composes what an entry script is given; of a sweep the first job. Raises what Hydra raises."""
    shown = ["+experiment=smoke" if word == "+experiment=..." else word for word in words]
    shown = [word for word in shown if word not in ("--cfg", "job")]
    settings = [word for word in normalise_arguments(shown, CONF) if not word.startswith("-")]
    single = []
    for override in OverridesParser.create().parse_overrides(settings):
        text = override.input_line or ""
        if override.is_sweep_override():
            text = f"{text.partition('=')[0]}={next(iter(override.sweep_string_iterator()))}"
        single.append(text)
    compose(*single, name=Path(script).stem)


def give_command(words: list[str]) -> None:
    """Composes what the console command is given, or finds its flags in the command's file."""
    if words[0].startswith("-"):
        return
    name = next(name for name in CONSOLE if words[: name.count(" ") + 1] == name.split())
    command, rest = CONSOLE[name], words[name.count(" ") + 1 :]
    if command.given:
        compose_words(f"{command.given[0]}.py", [*command.given[1:], *rest])
        return
    text = Path(importlib.util.find_spec(command.function.partition(":")[0]).origin).read_text()
    assert all(word.partition("=")[0] in text for word in rest if word.startswith("--"))


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{page}-{' '.join(words)[:60]}" for page, words in COMMANDS]
)
def test_every_command_can_be_given(page: str, words: list[str]) -> None:
    if words[0] == "openvlt":
        give_command(words[1:])
    elif words[0] == "make":
        assert set(words[1:]) <= TARGETS
    elif words[1] in SCRIPTS:
        compose_words(words[1], words[2:])
    elif words[1] == "-m":
        assert importlib.util.find_spec(words[2]), f"no module {words[2]}"
    else:
        text = (ROOT / words[1]).read_text()
        assert all(word.partition("=")[0] in text for word in words[2:] if word.startswith("--"))


def test_there_are_commands_of_every_kind() -> None:
    assert {words[1] if words[0] == "python" else words[0] for _, words in COMMANDS} >= {
        "make",
        "-m",
        *SCRIPTS,
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if target == ROOT / "docs" / "reference" / "configuration.md":
            continue  # made by docs/hooks.py
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), (
            f"{page.name}: {target.name} has no heading for #{anchor}"
        )


def test_a_wrong_command_is_noticed() -> None:
    with pytest.raises(Exception, match="nonsense"):
        compose_words("train.py", ["grpo.nonsense=1"])
