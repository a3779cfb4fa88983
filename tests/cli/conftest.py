"""The entry scripts, one finished run that several tests look at or build on, and pictures for rows of one's own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.entry_scripts import ITER1, ROOT, Cli, environment


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The entry scripts; one server of forks for the whole session."""
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "forks.py")]
    env = {**environment(), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as server:
        assert server.stdout.readline() == "ready\n"
        yield Cli(tmp_path_factory.mktemp("cli"), server)
        server.stdin.close()


@pytest.fixture(scope="session")
def iter1(cli: Cli) -> Path:
    """The folder of a finished `+experiment=iter1`: KL to a reference, two updates per rollout, a process of its own."""
    done = cli.process("train.py", "+experiment=iter1", *ITER1).ok()
    return Path(re.search(r"-> (\S+)", done.out)[1])


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., str]:
    """`picture(name, size=)` saves a square of noise beside the test's rows and gives its name."""

    def save(name: str, *, size: int) -> str:
        noise = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
        return name

    return save
