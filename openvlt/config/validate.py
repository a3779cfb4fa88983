"""Checks settings: their keys and kinds by the signature of their target, numbers by their range."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from openvlt.errors import UserError

_SCALARS = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,), "None": (type(None),)}
_LISTS, _MAPPINGS = ("tuple", "list", "Sequence"), ("Mapping", "dict")
_OWN = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")  # Hydra's
_KIND_NAMES = {"None": "null", **dict.fromkeys(_LISTS, "list"), **dict.fromkeys(_MAPPINGS, "mapping")}


def check_positive(part: Any, where: str, *names: str) -> None:
    """Raises UserError for the first of these numbers of `part` that isn't above 0.

    `where` is the part's place in the configuration.
    """
    for name in names:
        if not getattr(part, name) > 0:
            raise UserError(f"{where}.{name}={getattr(part, name)}; it is above 0".lstrip("."))


def check_not_negative(part: Any, where: str, *names: str) -> None:
    """As `check_positive`, but 0 is allowed."""
    for name in names:
        if not getattr(part, name) >= 0:
            raise UserError(f"{where}.{name}={getattr(part, name)} is negative; give 0 or more")


# --- by the signature of a target ---------------------------------------------------------------------------


def check_nodes(config: Any, name: str) -> None:
    """Raises UserError for the first node that doesn't fit its target.

    The target can't be imported, doesn't take a key, lacks one, or takes another kind of value.
    """
    for path, node in _targets(config, name):
        target = _locate(path, node["_target_"])
        try:
            signature = inspect.signature(target)
        except ValueError:  # something built in, which has none
            continue
        given = {key: value for key, value in node.items() if key not in _OWN}
        check_values(path, given, signature)
        _check_keys(path, node, given, signature)


def check_values(path: str, given: Mapping[str, Any], signature: inspect.Signature) -> None:
    """Raises UserError for a value that isn't of the kind in its parameter's annotation.

    Numbers, words, switches, lists and mappings are checked here, all other kinds by the target itself.
    """
    for key, value in given.items():
        kinds = _kinds(str(getattr(signature.parameters.get(key), "annotation", "")))
        if kinds and not _is_one_of(value, kinds):
            where = f"{path}.{key}".lstrip(".")
            kind = " or ".join(dict.fromkeys(_KIND_NAMES.get(kind, kind) for kind in kinds))
            shown = "null" if value is None else repr(value)
            one_item = kind == "list" and not isinstance(value, Mapping) and value is not None
            fix = f"[{value}]" if one_item else "true or false" if kind == "bool" else f"<{kind}>"
            raise UserError(f"{where}={shown} is no {kind}; give {where}={fix}")


def _kinds(annotation: str) -> list[str]:
    """The alternatives of an annotation; [] if one of them isn't checked here."""
    kinds = [part.partition("[")[0].strip() for part in re.split(r"\|(?![^\[]*\])", annotation)]
    return kinds if all(kind in (*_SCALARS, *_LISTS, *_MAPPINGS) for kind in kinds) else []


def _is_one_of(value: Any, kinds: list[str]) -> bool:
    if isinstance(value, bool):
        return "bool" in kinds
    if isinstance(value, Mapping):
        return "_target_" in value or any(kind in _MAPPINGS for kind in kinds)
    if isinstance(value, (list, tuple)):
        return any(kind in _LISTS for kind in kinds)
    plain = value is None or isinstance(value, (int, float, str))
    return not plain or any(isinstance(value, _SCALARS.get(kind, ())) for kind in kinds)


def _targets(config: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every node with a `_target_`, with its dotted path."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield path, config
        for key in config:
            yield from _targets(config[key], f"{path}.{key}".lstrip("."))
    elif isinstance(config, (list, tuple)):
        for index, item in enumerate(config):
            yield from _targets(item, f"{path}[{index}]")


def _check_keys(
    path: str, node: Mapping[str, Any], given: Mapping[str, Any], signature: inspect.Signature
) -> None:
    parameters = signature.parameters.values()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        known = [name for name in signature.parameters if name != "self"]
        if unknown := sorted(set(given) - set(known)):
            takes = f"{node['_target_']} takes {', '.join(known)}"
            raise UserError(f"{path or 'config'} has unknown {_quote_keys(unknown)}; {takes}")
    needed = [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind not in several and one.name not in given
    ]
    if needed and not node.get("_partial_") and "_args_" not in node:
        where, lacks = f"{path}.{needed[0]}".lstrip("."), f"{path or 'config'} has no {', '.join(needed)}"
        raise UserError(f"{lacks}, which {node['_target_']} needs; give {where}=<value>")


def _locate(path: str, target: str) -> Callable[..., Any]:
    place, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(place)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{path}._target_={target} can't be imported ({error}); check the name, or install its package"
        ) from error
    if not hasattr(module, name):
        own = sorted(
            key
            for key, value in vars(module).items()
            if getattr(value, "__module__", "") == place and key[0] != "_"
        )
        known = dict.fromkeys([*difflib.get_close_matches(name, dir(module)), *own])
        raise UserError(
            f"{path}._target_={target}: {place} has no {name!r}, but {', '.join(known) or 'nothing like it'}"
        )
    return getattr(module, name)


def _quote_keys(keys: list[str]) -> str:
    return f"key {keys[0]!r}" if len(keys) == 1 else f"keys {', '.join(map(repr, keys))}"
