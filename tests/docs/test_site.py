"""The site of the documentation: `mkdocs build` in its strict form, and the reference that it makes from conf/."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import get_object

from tests.docs.pages import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import hooks  # noqa: E402

FILES = sorted(hooks.CONF.rglob("*.yaml"))


def test_the_reference_has_every_file_and_every_argument() -> None:
    page = hooks.configuration_page()
    for file in FILES:
        assert f"### conf/{file.relative_to(hooks.CONF)}" in page
    assert "| `clip_high` | `" in page and "| `ahead` | `int` | `0` |" in page
    built = {path for file in FILES for path in re.findall(r"_target_: (openvlt[\w.]+)", file.read_text())}
    assert len(built) > 50
    for path in built:
        assert f'note "{path}"' in page and (get_object(path).__doc__ or "").strip(), (
            f"{path} has no docstring"
        )


def test_links_out_of_the_docs_are_text() -> None:
    text = "See [the loop](../openvlt/grpo/train.py), [GRPO](grpo.md) and [paper](https://arxiv.org)."
    shown = hooks.on_page_markdown(text)
    assert shown == "See the loop, [GRPO](grpo.md) and [paper](https://arxiv.org)."


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 15
    asked = re.compile(r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)"[^>]*(?:stylesheet|>)')
    fetched = {
        place for page in pages for place in asked.findall(page.read_text()) if "canonical" not in place
    }
    assert not fetched, "a reader's browser would fetch these"
