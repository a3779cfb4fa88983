"""Where the real data is: OPENVLT_TEST_DATA, by default ../shared/data beside the repository; tests that need it skip without."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data; skips the test when it isn't there."""
    folder = Path(os.environ.get("OPENVLT_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set OPENVLT_TEST_DATA")
    return folder
