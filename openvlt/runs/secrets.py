"""Keys of servers, trackers and hubs: they come from the environment, and nothing of a run may show them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from openvlt.errors import UserError

_NAME = re.compile(r".*(KEY|TOKEN|SECRET|PASSWORD)", re.IGNORECASE)  # of a variable that holds a key
_SHORTEST = 12  # letters; a shorter value may stand in a text by chance


def find_secrets() -> dict[str, str]:
    """The environment's keys: name of the variable -> value."""
    return {
        name: value for name, value in os.environ.items() if _NAME.fullmatch(name) and len(value) >= _SHORTEST
    }


def hide_secrets(text: str) -> str:
    """The text with the names of variables in the place of their keys."""
    for name, value in find_secrets().items():
        text = text.replace(value, f"<{name}>")
    return text


def refuse_secrets(config: Any) -> None:
    """Raises UserError for a setting that holds a key of the environment: config.yaml would show it."""
    secrets = find_secrets()
    for setting, value in _walk_settings(config, ""):
        if name := next((name for name, secret in secrets.items() if secret in value), None):
            raise UserError(
                f"{setting} holds the value of {name}, and config.yaml would show it; leave the setting out, "
                "keys are read from the environment"
            )


def _walk_settings(node: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text of a plain configuration with its setting's name."""
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            yield from _walk_settings(value, f"{place}.{key}".lstrip("."))
    elif isinstance(node, str):
        yield place, node
