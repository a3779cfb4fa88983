"""Entry scripts as a user starts them, with settings so small that a run takes a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = [  # a model of 50 thousand random parameters; SFT on gold answers teaches it the form, so that some of its guesses are right
    *(f"++model.sizes.{name}={size}" for name, size in {"hidden": 48, "mlp": 96, "layers": 2, "vision_hidden": 48}.items()),
    *(f"++model.sizes.{name}={size}" for name, size in {"vision_mlp": 96, "vision_layers": 2}.items()),
    "model.training=null",
    "evaluation.selection.amount=24",
    "tokens.caption=8",
    "tokens.response=8",
    "sft.epochs=4",
    "sft.optimizer.learning_rate=0.02",
    "sft.batch_size=16",
    "sft.micro_batch=16",
    "grpo.steps=2",
    "grpo.prompts_per_rollout=4",
    "grpo.prompts_per_update=4",
]
FIGURES = ["data.kinds=[bars]", "data.levels=[1]", "data.lesson_amount=0"]
CYCLES = [
    *("distill=gold", "distill@self_distill=gold"),
    *(f"cycles.{cycle}.{what}.levels=[1]" for cycle in ("one", "two", "three") for what in ("traces", "problems")),
    *(f"cycles.{cycle}.traces.amount=128" for cycle in ("one", "two", "three")),
    *(f"cycles.{cycle}.problems.amount=16" for cycle in ("one", "two", "three")),
]
ITER1 = [*FIGURES, *CYCLES, "grpo.kl=0.01", "grpo.prompts_per_rollout=8", "grpo.steps=8", "trainer.checkpoint_every=1"]


@dataclass(frozen=True)
class Done:
    """How a script ended."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one sentence on a user's mistake; fails when there is none, more than one, or a traceback."""
        assert self.status not in (0, -9), self.out
        assert "Traceback" not in self.err + self.out, self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and self.err.strip() == lines[0], f"expected one `error: ...` line, got:\n{self.err}"
        return lines[0].removeprefix("error: ")

    def ok(self) -> Done:
        """Itself; fails when the script did."""
        assert self.status == 0, f"status {self.status}\n{self.out}\n{self.err}"
        return self


@dataclass(frozen=True)
class Cli:
    """Runs entry scripts with the tiny settings. `work` holds the run folders (`work/runs`) and the cached base model."""

    work: Path
    server: subprocess.Popen[str]

    def __call__(self, script: str, *arguments: str, tiny: bool = True) -> Done:
        """One run in a fork (see forks.py). `tiny=False` leaves every setting at its default."""
        out, err = self.work / "out", self.work / "err"
        self.server.stdin.write(json.dumps({"argv": self.argv(script, arguments, tiny), "out": str(out), "err": str(err)}) + "\n")
        self.server.stdin.flush()
        return Done(int(self.server.stdout.readline()), out.read_text(), err.read_text())

    def start(self, script: str, *arguments: str, tiny: bool = True) -> subprocess.Popen[str]:
        """A process of its own, as from a shell, to be waited for, interrupted or killed."""
        command = [sys.executable, *self.argv(script, arguments, tiny)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())

    def argv(self, script: str, arguments: tuple[str, ...], tiny: bool) -> list[str]:
        """The command line; what a test gives comes after the tiny settings, so that it wins."""
        settings = [*self.places(), *TINY] if tiny else []
        given = {argument.partition("=")[0] for argument in arguments}
        return [script, *(setting for setting in settings if setting.partition("=")[0] not in given), *arguments]

    def places(self) -> list[str]:
        return [f"paths.runs={self.work / 'runs'}", f"paths.cache={self.work / 'cache'}"]

    def newest(self, name: str) -> Path:
        """The newest run folder of that name."""
        return sorted((self.work / "runs" / name).iterdir())[-1]


def environment() -> dict[str, str]:
    """One thread, no network, nothing of the machine's own OpenVLT settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENVLT_")}
    return {**clean, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
