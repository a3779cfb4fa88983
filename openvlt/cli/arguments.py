"""The command line as users write it, in the form that Hydra reads."""

from __future__ import annotations

import difflib
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from openvlt.errors import UserError

# groups outside the defaults list: `experiment=x` is read as `+experiment=x`
APPENDED = ("experiment", "recipe")
# settings that hold a place, taken as it is written
_PLACE = re.compile(
    r"(resume|reuse|responses|baseline|judge_ledger|paths\.\w+|(.+\.)?(path|test_path|val_path|data_dir|previous))"
)
# settings that hold a name: 2025 is one, too
_NAME = re.compile(r"(response_column|data\.columns\.\w+|(.+\.)?(name|revision)|.+\.endpoints\.model)")


def normalise_arguments(arguments: list[str], conf: Path) -> list[str]:
    """Arguments as users write them, in the form that Hydra reads. Raises UserError for what is no setting.

    * `experiment=x` becomes `+experiment=x`; likewise `recipe`.
    * `model=<path or hub id>` becomes `model=pretrained model.path=<it>`.
    * `view=x` and `compare=A,B` get the form of groups inside groups, and of lists.
    * A place or a text is quoted where Hydra would read it as something else; `~` becomes the home folder.
    * `-m` goes to the end: Hydra's parser gives up on settings that follow it.
    """
    sweep = [argument for argument in arguments if argument in ("-m", "--multirun")]
    result, value_follows = [], False
    words = [argument for argument in arguments if argument not in sweep]
    for place, argument in enumerate(words):
        if value_follows or _is_flag(argument):
            value_follows = not value_follows and _takes_value(argument)
            result.append(argument)
        else:
            _check_setting(argument, words[place + 1 : place + 2], conf)
            result += _normalise_setting(argument, conf, bool(sweep))
    if not any(word.startswith(("--config-dir", "-cd")) for word in words):  # whose files may have others
        _check_additions(result, conf)
    return result + sweep[:1]


# --- what is no setting -------------------------------------------------------------------------------------


@cache
def _flags() -> dict[str, Any]:
    """Hydra's own switches."""
    from hydra._internal.utils import get_args_parser

    return {flag: action for action in get_args_parser()._actions for flag in action.option_strings}


def _is_flag(argument: str) -> bool:
    """Whether it is one of Hydra's switches, written in full: argparse would complete `--experiment`."""
    return argument.partition("=")[0] in _flags()


def _takes_value(argument: str) -> bool:
    """Whether the next word belongs to this switch."""
    return "=" not in argument and _flags()[argument].nargs is None


def _check_setting(argument: str, following: list[str], conf: Path) -> None:
    """Raises UserError for a word without `=`, or one that begins like a switch; shows how it is written."""
    name, equals, value = argument.lstrip("-").partition("=")
    if argument.startswith("~") or equals and not argument.startswith("-"):
        return
    if not equals and following and not following[0].startswith("-") and "=" not in following[0]:
        equals, value = "=", following[0]  # `--experiment smoke`
    groups = [folder for folder in sorted(conf.iterdir()) if (folder / f"{argument}.yaml").is_file()]
    if argument.startswith("-") or equals:
        key = name if "." in name else _closest_key(name, conf)
        key = f"+{key}" if key in APPENDED else key
        meant = f"{key}={value or '<value>'}"
    elif groups:
        plus = "+" if groups[0].name in APPENDED else ""
        meant = f"{plus}{groups[0].name}={argument}"
    else:
        meant = f"{argument}=<value>"
    raise UserError(f"{argument!r} is no setting, settings are written key=value; write {meant}")


def _check_additions(arguments: list[str], conf: Path) -> None:
    """Raises UserError for a setting that `+` adds at the top, where nothing would read it."""
    for argument in arguments:
        key = argument.partition("=")[0]
        top = re.split(r"[.@/]", key.lstrip("+"))[0]
        if key.startswith("+") and top not in _top_level_keys(conf):
            raise UserError(f"{argument!r}: nothing reads a setting {top!r}; `--cfg job` prints all settings")


def _closest_key(name: str, conf: Path) -> str:
    """The top-level setting or group that a word means, else the word."""
    known = _top_level_keys(conf)
    longer = [key for key in (*APPENDED, *sorted(known)) if key.startswith(name)]
    return next(iter([*longer, *difflib.get_close_matches(name, sorted(known), 1)]), name)


@cache
def _top_level_keys(conf: Path) -> frozenset[str]:
    """The settings at the top of the scripts' configs, and the groups."""
    files = [*conf.glob("*.yaml"), *conf.glob("scale/*.yaml"), *conf.glob("experiment/*.yaml")]
    keys = {key for file in files for key in re.findall(r"^(\w+):", file.read_text(), re.MULTILINE)}
    return frozenset(keys | {folder.name for folder in conf.iterdir() if folder.is_dir()})


# --- settings -----------------------------------------------------------------------------------------------


def _normalise_setting(argument: str, conf: Path, sweep: bool) -> list[str]:
    key, equals, value = argument.partition("=")
    if not equals:
        return [argument]
    if key in APPENDED:
        return [f"+{key}={value}"]
    if key == "model" and not (conf / "model" / f"{value}.yaml").is_file() and _is_path_or_id(value):
        return ["model=pretrained", f"model.path={quote_value('model.path', value, sweep)}"]
    if (
        key == "data"
        and re.fullmatch(r"[^,]*[./][^,]*", value)
        and not (conf / "data" / f"{value}.yaml").is_file()
    ):
        kind = "jsonl" if re.search(r"\.(jsonl|json|parquet|csv|tsv)$", value) else "hub"
        raise UserError(f"{argument}: data names a kind of source; write data={kind} data.path={value}")
    if key == "view":  # a group inside another one
        return [f"benchmark/view@view={value}"]
    if key == "compare" and not value.startswith("["):  # a comma would mean a sweep
        places = [quote_value("path", place, sweep) for place in _split_places(value)]
        return [f"compare=[{','.join(places)}]"]
    return [f"{key}={quote_value(key.lstrip('+'), value, sweep)}"]


def _is_path_or_id(value: str) -> bool:
    return "/" in value or value.startswith((".", "~")) or Path(value).is_dir()


def _split_places(value: str) -> list[str]:
    """The places between commas; a comma within the name of one that exists is left."""
    parts = value.split(",")
    for cut in range(1, len(parts)):
        pair = [",".join(parts[:cut]), ",".join(parts[cut:])]
        if all(os.path.lexists(os.path.expanduser(place)) for place in pair):
            return pair
    return parts


def quote_value(key: str, value: str, sweep: bool) -> str:
    """The value as Hydra has to be given it, so that it reads the text that is written.

    Lists, mappings, numbers and interpolations are left as they are, except where a place or a name is meant.
    A `sweep` has its values between commas.
    """
    place = _PLACE.fullmatch(key) is not None
    if place and value.startswith("~") and not os.path.lexists(value):
        value = os.path.expanduser(value)
    if sweep and "," in value and not os.path.lexists(value):
        parts = [quote_value(key, part, sweep=False) for part in value.split(",")]
        return ",".join(parts) if _parse(f"{key}={value}") is None else value
    parsed = _parse(f"{key}={value}")
    if parsed is None:  # Hydra can't read it: a text, unless a list or a mapping was begun
        as_text = place or not value.lstrip().startswith(("[", "{", "'", '"'))
    elif place:
        as_text = parsed.value() != value and _means_place(parsed, value)
    else:
        as_text = _NAME.fullmatch(key) is not None and isinstance(parsed.value(), (bool, int, float))
    return _quote(value) if as_text else value


def _means_place(parsed: Any, value: str) -> bool:
    """Whether what Hydra reads differently is a place: it exists, or has no form of Hydra's."""
    if os.path.lexists(value):
        return True
    if parsed.is_sweep_override():
        return not re.match(r"(choice|range|glob|interval|sort|shuffle|tag|extend_list)\(", value)
    return isinstance(parsed.value(), (bool, int, float, list, dict)) or value != value.strip()


def _parse(argument: str) -> Any:
    """Hydra's reading of a setting; None where it can't be read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _quote(value: str) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text=value, quote=Quote.single).with_quotes()
