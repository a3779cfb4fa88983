"""The entry scripts, one finished run that several tests look at or build on, and pictures for rows of one's own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from entry_scripts import ITER1, ROOT, Cli, Done, environment


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The entry scripts; one server of forks for the whole session."""
    command = [sys.executable, str(Path(__file__).with_name("forks.py"))]
    env = {**environment(), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as server:
        assert server.stdout.readline() == "ready\n"
        yield Cli(tmp_path_factory.mktemp("cli"), server)
        server.stdin.close()


@pytest.fixture(scope="session")
def iter1(cli: Cli) -> Path:
    """The folder of a finished `+experiment=iter1`: KL to a reference, two updates per rollout, a process of its own."""
    process = cli.start("train.py", "+experiment=iter1", *ITER1)
    out, err = process.communicate(timeout=300)
    Done(process.returncode, out, err).ok()
    return Path(re.search(r"-> (\S+)", out)[1])


@pytest.fixture
def wait_for() -> Callable[[Callable[[], Any], subprocess.Popen[str]], None]:
    """`wait_for(condition, process)`: until it holds; fails when the process ends first or nothing happens for two minutes."""

    def wait(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
        began = time.monotonic()
        while not condition():
            assert process.poll() is None, f"ended too early:\n{process.communicate()}"
            assert time.monotonic() - began < 120, "nothing happened for two minutes"
            time.sleep(0.005)

    return wait


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., str]:
    """`picture(name, size=)` saves a square of noise beside the test's rows and gives its name."""
    import numpy as np
    from PIL import Image

    def save(name: str, *, size: int) -> str:
        noise = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
        return name

    return save
