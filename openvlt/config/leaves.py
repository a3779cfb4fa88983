"""Nested settings as a list of single ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def setting_leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting that holds no others, as (`dotted.name`, value); an empty mapping is one."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from setting_leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
