"""Puts a page together: template, style, scripts and data in one HTML file that requests nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent
ASSETS = PAGE.parent / "assets"
STYLES = (ASSETS / "uPlot.min.css", PAGE / "style.css", PAGE / "parts.css")
REPORT_SCRIPTS = ("base.js", "head.js", "plot.js", "curves.js", "rollouts.js", "answers.js", "report.js")
INDEX_SCRIPTS = ("base.js", "plot.js", "compare.js", "index.js")


def build_page(title: str, scripts: Sequence[str], blocks: Mapping[str, Any]) -> str:
    """One HTML file. `scripts` are files of this folder, `blocks` the data that they read, by element id.

    The policy in the page names the hash of every script and style, so that nothing else can run.
    """
    codes = [_read(ASSETS / "uPlot.iife.min.js"), "\n".join(_read(PAGE / name) for name in scripts)]
    styles = [_read(file) for file in STYLES]
    parts = {
        "title": html.escape(title),
        "script_hashes": " ".join(map(_hash, codes)),
        "style_hashes": " ".join(map(_hash, styles)),
        "styles": "".join(f"<style>{style}</style>\n" for style in styles),
        "scripts": "".join(f"<script>{code}</script>\n" for code in codes),
        "blocks": "".join(
            f'<script type="application/json" id="{name}">{embed_json(value)}</script>\n'
            for name, value in blocks.items()
        ),
    }
    page, *rest = _read(PAGE / "page.html").split("{{")
    for piece in rest:
        name, _, text = piece.partition("}}")
        page += parts[name] + text
    return page


def embed_json(value: Any) -> str:
    """JSON that can stand in a page: no `<` in it, so that no text can end the element or begin another.

    A number that isn't finite, such as the reward of a completion that no term applies to, is null.
    """
    try:
        text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_without_nan(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@cache
def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
