"""Runs with `rollout=vllm rollout.start=true`: their server comes and goes with them, and can be lost."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.helpers.entry_scripts import FIGURES
from tests.helpers.vllm_server import vllm_python

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SETTINGS = [
    "+experiment=smoke", *FIGURES, "rollout=vllm", "rollout.start=true", "rollout.server.max_model_len=1024",
    "++model.sizes.hidden=96", "++model.sizes.vision_hidden=96", "cycles.one.traces.amount=64", "trainer.checkpoint_every=1",
]  # fmt: skip


def servers(run: int) -> list[int]:
    """The processes of the vLLM servers that a run has started, through its guard."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parents = [int(folder.name)]
            while parents[-1] > 1:
                parents.append(
                    int((Path("/proc") / str(parents[-1]) / "stat").read_text().rpartition(")")[2].split()[1])
                )
        except OSError:
            continue
        if (
            run in parents[1:]
            and b"vllm.entrypoints.openai.api_server" in words
            and b"openvlt.serving.vllm.process" not in words
        ):
            found.append(int(folder.name))
    return found


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


AHEAD = [
    "rollout.ahead=1",
    "+grpo.rollout_correction={_target_: openvlt.grpo.parts.rollout_correction.RolloutCorrection}",
]


@pytest.mark.parametrize(("name", "more"), [("in_turn", []), ("ahead", AHEAD)])
def test_a_lost_server_ends_the_run_and_resume_goes_on(cli, tmp_path, name, more):
    settings = [
        *SETTINGS,
        *more,
        f"name={name}",
        f"rollout.server.python={vllm_python()}",
        "iteration.stages.grpo.settings.steps=5",
        f"rollout.folder={tmp_path}",
    ]
    run = cli.start("train.py", *settings, pause=(cli.work / "runs", f"{name}/*/02-grpo/metrics.csv", 2))
    run.at_pause()
    (server,) = servers(run.pid)
    os.kill(server, signal.SIGKILL)
    done = run.end_by(signal.SIGCONT)
    assert re.search(
        r"the vLLM server at http://127\.0\.0\.1:\d+ was lost (while it generated|between two rollouts)",
        done.error,
    )
    folder = cli.newest(name)
    again = cli.start("train.py", f"resume={folder}", tiny=False, pause=(folder, "02-grpo/metrics.csv", 3))
    again.at_pause()
    (server,) = servers(again.pid)
    assert again.end_by(signal.SIGINT).status == 130
    while not gone([server]):
        time.sleep(0.1)  # its guard ends it
    assert cli("train.py", f"resume={folder}", tiny=False).ok().out
    assert not list(tmp_path.iterdir()), "weights were left behind"
