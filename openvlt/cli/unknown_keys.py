"""What a setting that isn't there was meant to be: renamed, of another group's file, or spelled alike."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from openvlt.config.resolvers import CONF

SHOWN = 3
_RENAMED = re.compile(r"^\| (`[^|]*`) \| (`\w+`) \| (`\w+`) \|$", re.MULTILINE)


def explain_unknown_key(key: str, append: str | None) -> str:
    """One sentence about a setting that isn't there; `append` is how Hydra would add it as a new one."""
    if new := _new_name(key):
        return f"there is no setting {key!r} any more; it is now {new}"
    if files := _files_with(key):
        group = key.partition(".")[0]
        choices = ", ".join(f"{group}={name}" for name in files[:SHOWN])
        return f"{key!r} belongs to {choices}; add {'it' if len(files) == 1 else 'one of them'}"
    close = _closest(key)
    hint = f"did you mean {', '.join(close[:-1])}{' or ' if close[1:] else ''}{close[-1]}? " if close else ""
    added = f", {append} adds it if its part takes it" if append and "." in key else ""
    return f"there is no setting {key!r}; {hint}`--cfg job` prints all settings{added}"


def _new_name(key: str) -> str | None:
    """The name that a setting has now, by the table in CHANGELOG.md."""
    group, _, last = key.rpartition(".")
    file = CONF.parent / "CHANGELOG.md"  # beside conf/ in a checkout and in the installed package
    for where, old, new in _RENAMED.findall(file.read_text(encoding="utf-8") if file.is_file() else ""):
        if old == f"`{last}`" and f"`{group}`" in where:
            return f"{group}.{new.strip('`')}"
    return None


def _files_with(key: str) -> list[str]:
    """The files of the setting's group that have it; those first that leave something to the user."""
    group, _, path = key.partition(".")
    found = [file.stem for file in _files_of(group) if path and _holds(file, path.split("."))]
    return sorted(found, key=lambda name: "???" not in _read(group, name))


def _holds(file: Path, path: Sequence[str]) -> bool:
    """Whether a settings file writes out a setting."""
    node: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    for word in path:
        if not isinstance(node, dict) or word not in node:
            return False
        node = node[word]
    return True


def _files_of(group: str) -> dict[Path, list[str]]:
    """The files of a group, each with the settings at its top."""
    files = sorted((CONF / group).glob("*.yaml")) if group else []
    return {file: re.findall(r"^([a-z]\w*):", file.read_text(), re.MULTILINE) for file in files}


def _read(group: str, name: str) -> str:
    return (CONF / group / f"{name}.yaml").read_text()


def _closest(key: str) -> list[str]:
    """Settings whose last word is the same, is abbreviated by it, or is spelled alike.

    Those of its own group come first; of others only if none is spelled alike there.
    """
    first, last = key.partition(".")[0], key.rpartition(".")[2]
    others = {f"{first}.{word}" for words in _files_of(first).values() for word in words if "." in key}
    words: dict[str, list[str]] = {}
    for one in sorted({*_all_keys(), *others} - {key}):
        words.setdefault(one.rpartition(".")[2], []).append(one)
    same = [word for word in words if word == last or _initials(word) == last]
    alike = difflib.get_close_matches(last, words, SHOWN)
    chosen = [one for word in same for one in words[word]]
    chosen += [one for word in alike for one in words[word] if one.partition(".")[0] == first]
    chosen = chosen or [one for word in alike for one in words[word]]
    ranked = sorted(set(chosen), key=lambda one: (one.partition(".")[0] != first, one.count("."), one))
    return ranked[:SHOWN]


def _initials(word: str) -> str:
    return "".join(part[:1] for part in word.split("_")) if "_" in word else ""


def _all_keys() -> list[str]:
    """Every setting of the script, with the groups' files that the command line chooses."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    script = Path(sys.argv[0]).stem
    script = script if (CONF / f"{script}.yaml").is_file() else "train"
    for words in ([word for word in sys.argv[1:] if _chooses_file(word)], []):
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                return list(_flatten_names(OmegaConf.to_container(compose(script, words))))
        except (HydraException, OmegaConfBaseException):
            continue
    return []


def _chooses_file(word: str) -> bool:
    group, _, name = word.lstrip("+").partition("=")
    return (CONF / group.partition("@")[0] / f"{name}.yaml").is_file()


def _flatten_names(value: Any, path: str = "") -> Iterator[str]:
    """The dotted names in nested mappings, without Hydra's own."""
    for name, inner in value.items():
        here = f"{path}.{name}".lstrip(".")
        if not str(name).startswith("_"):
            yield here
        if isinstance(inner, dict):
            yield from _flatten_names(inner, here)
