"""Entry scripts as a user starts them, with settings so small that a run takes a second."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
API_KEY = "5ec2e7" * 7
SIZES = {"hidden": 48, "mlp": 96, "layers": 2, "vision_hidden": 48, "vision_mlp": 96, "vision_layers": 2}
MODEL = [
    "model.training=null",
    *(f"++model.sizes.{name}={size}" for name, size in SIZES.items()),
]  # 0.1 M random parameters
TINY = [  # SFT on gold answers teaches such a model their form in 32 steps, so that one guess in ten is right and GRPO has a signal
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
    *(
        f"cycles.{cycle}.{what}.levels=[1]"
        for cycle in ("one", "two", "three")
        for what in ("traces", "problems")
    ),
    *(f"cycles.{cycle}.traces.amount=128" for cycle in ("one", "two", "three")),
    *(f"cycles.{cycle}.problems.amount=16" for cycle in ("one", "two", "three")),
]
ITER1 = [
    *FIGURES,
    *CYCLES,
    "grpo.kl=0.01",
    "grpo.prompts_per_rollout=8",
    "grpo.steps=8",
    "trainer.checkpoint_every=1",
]


@dataclass(frozen=True)
class Done:
    """How a script ended."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one sentence on a user's mistake; fails when there is none, more than one, or a traceback."""
        assert self.status in (1, 2), f"status {self.status}\n{self.out}\n{self.err}"
        assert "Traceback" not in self.err + self.out, self.err
        assert self.err.startswith("error: ") and len(self.err.splitlines()) == 1, (
            f"expected one line `error: ...`, got:\n{self.err}"
        )
        return self.err.removeprefix("error: ").rstrip()

    def ok(self) -> Done:
        """Itself; fails when the script did."""
        assert self.status == 0, f"status {self.status}\n{self.out}\n{self.err}"
        return self


@dataclass(frozen=True)
class Running:
    """A run on its way."""

    pid: int
    files: tuple[Path, Path]
    ask: Callable[[dict[str, Any]], Any]

    def wait(self) -> Done:
        """Its end; fails when it pauses first."""
        status = self.ask({"pid": self.pid})
        assert status is not None, "the run is paused; end it with `end_by`"
        return Done(status, *(file.read_text() for file in self.files))

    def at_pause(self) -> Running:
        """Itself, once it stands still at its pause; fails when it ends without reaching it."""
        status = self.ask({"pid": self.pid})
        texts = [file.read_text() for file in self.files]
        assert status is None, "\n".join([f"ended with {status} before its pause", *texts])
        return self

    def end_by(self, number: signal.Signals, *, everyone: bool = False) -> Done:
        """Sends a signal to a paused run (to all its processes if `everyone`), lets it go on, and waits for its end."""
        os.kill(-self.pid if everyone else self.pid, number)
        os.kill(self.pid, signal.SIGCONT)
        return self.wait()


@dataclass(frozen=True)
class Cli:
    """Runs entry scripts with the tiny settings. `work` holds the run folders (`work/runs`) and the cached base model."""

    work: Path
    server: subprocess.Popen[str]
    numbers: Any = field(default_factory=itertools.count)

    def __call__(self, script: str, *arguments: str, tiny: bool = True) -> Done:
        """One run in a fork (see forks.py), to its end. `tiny=False` gives nothing but the arguments."""
        return self.start(script, *arguments, tiny=tiny).wait()

    def start(
        self, script: str, *arguments: str, tiny: bool = True, pause: tuple[Path, str, int] | None = None
    ) -> Running:
        """As calling it, to be waited for or ended by a signal.

        With `pause=(folder, pattern, lines)` the run stops by itself, once, when the files there that match hold so many lines.
        """
        number = next(self.numbers)
        files = (self.work / f"{number}.out", self.work / f"{number}.err")
        job = {"argv": self.argv(script, *arguments, tiny=tiny), "out": str(files[0]), "err": str(files[1])}
        pid = self._ask({**job, "pause": pause and (str(pause[0]), *pause[1:])})
        return Running(pid, files, self._ask)

    def process(self, script: str, *arguments: str, **variables: str) -> Done:
        """One run in a process of its own, as from a shell."""
        command = [sys.executable, *self.argv(script, *arguments)]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env=environment() | variables
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def argv(self, script: str, *arguments: str, tiny: bool = True) -> list[str]:
        """The command line; what a test gives takes the place of a tiny setting."""
        given = {argument.partition("=")[0] for argument in arguments}
        places = [f"paths.runs={self.work / 'runs'}", f"paths.cache={self.work / 'cache'}"]
        settings = [*places, *([] if "model" in given else MODEL), *TINY] if tiny else []
        return [
            script,
            *(setting for setting in settings if setting.partition("=")[0] not in given),
            *arguments,
        ]

    def newest(self, name: str) -> Path:
        """The newest run folder of that name."""
        return sorted((self.work / "runs" / name).iterdir())[-1]

    def _ask(self, job: dict[str, Any]) -> Any:
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())


def environment() -> dict[str, str]:
    """One thread, no network, nothing of the machine's own OpenVLT settings; a key that may be in no file."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENVLT_")}
    keys = {"WANDB_API_KEY": API_KEY, "HF_TOKEN": f"hf_{API_KEY}"}
    return {**clean, **keys, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
