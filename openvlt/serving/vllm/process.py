"""vLLM servers as processes: started as the project needs them, watched, and ended with their owner."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from openvlt.errors import UserError
from openvlt.serving.vllm.client import KEY_VARIABLE

CPU_CACHE_BYTES = 256 << 20
CPU_BATCH_TOKENS = 32768
_ROOT = Path(__file__).parents[3]  # for the worker extension
_SITE = Path(__file__).parent / "site"
_END_S = 20.0
_ADOPT = 36  # PR_SET_CHILD_SUBREAPER


@dataclass(frozen=True)
class ServerOptions:
    """How servers are started. `python` is that of the environment with vLLM, None this one.

    `max_model_len` is prompt and response together, None what the model allows; `memory` the share of a GPU's
    that a server may fill; `arguments` are more of vLLM's own.
    """

    python: str | None = None
    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 256
    memory: float = 0.9
    max_images: int = 8
    lora_rank: int = 0
    sleep: bool = False
    arguments: tuple[str, ...] = ()


def check_python(python: str | None) -> None:
    """Raises UserError when there is no vLLM in the environment of this python (None: in this one)."""
    find = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        found = subprocess.run([python or sys.executable, "-c", find], capture_output=True).returncode == 0
    except OSError as error:
        raise UserError(
            f"server.python={python} can't be run ({error.strerror}); give the python of an "
            "environment with vLLM"
        ) from error
    if not found:
        raise UserError(
            f"there is no vLLM in the environment of {python or 'this python'}; install it (on GPUs: "
            "python -m pip install -r requirements-gpu.txt; on a CPU: make vllm-env), or name the python of "
            "another environment (rollout.server.python, --python)"
        )


def server_command(
    folder: str, port: int, options: ServerOptions, *, gpu: int | None, host: str = "127.0.0.1"
) -> list[str]:
    """The command of one server, on a GPU or, with None, on the CPU."""
    flags = {
        "--model": folder,
        "--host": host,
        "--port": port,
        "--dtype": options.dtype,
        "--max-num-seqs": options.max_num_seqs,
        "--logprobs-mode": "processed_logprobs",
        "--generation-config": "vllm",
        "--limit-mm-per-prompt": json.dumps({"image": options.max_images, "video": 0}),
        "--worker-extension-cls": "openvlt.serving.vllm.worker.WeightReceiver",
    }
    switches = ["--enable-scale-out"]
    if options.max_model_len is not None:
        flags["--max-model-len"] = options.max_model_len
    if options.lora_rank:
        flags["--max-lora-rank"] = options.lora_rank
        switches.append("--enable-lora")
    if gpu is None:
        flags["--kv-cache-memory-bytes"] = CPU_CACHE_BYTES
        # a prompt in two parts ends vLLM 0.32 on a CPU: it wants to turn back a seeded generator, which can't
        flags["--max-num-batched-tokens"] = max(CPU_BATCH_TOKENS, options.max_model_len or 0)
        switches += ["--enforce-eager", "--no-enable-chunked-prefill"]
    else:
        flags["--gpu-memory-utilization"] = options.memory
        switches += ["--enable-sleep-mode"] * options.sleep
    if host != "127.0.0.1":
        flags["--middleware"] = "openvlt.serving.vllm.worker.KeyCheck"
    words = [str(word) for pair in flags.items() for word in pair]
    # not the command `vllm`: the CPU build has none that works
    python = options.python or sys.executable
    return [python, "-m", "vllm.entrypoints.openai.api_server", *words, *switches, *options.arguments]


def server_environment(gpu: int | None) -> dict[str, str]:
    """The variables of a server's process."""
    path = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {
        **os.environ,
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    # a rank's own would make the server one of the ranks
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        variables.pop(name, None)
    if gpu is None:
        path.insert(0, str(_SITE))
        cpu = {"VLLM_CPU_CI_ENV": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
        variables.update(cpu)
    else:
        variables["CUDA_VISIBLE_DEVICES"] = str(gpu)
    return {**variables, "PYTHONPATH": os.pathsep.join(path)}


class ServerProcess:
    """A server and all its processes. `stop` ends them; so does the end of this process, however it ends."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.log = log
        # a guard between the two: it ends the server when its input closes
        guard = [sys.executable, "-m", "openvlt.serving.vllm.process", *command]
        path = {"PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                guard,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, "OPENVLT_SERVER_PATH": environment["PYTHONPATH"], **path},
                start_new_session=True,  # Ctrl-C is for the run, which then ends the server
            )

    def is_running(self) -> bool:
        """Whether the server's process is there."""
        return self.process.poll() is None

    def stop(self) -> None:
        """Ends the server; waits for its end. The log of one that had ended by itself stays."""
        ended = not self.is_running()
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(_END_S + 5)
        except subprocess.TimeoutExpired:
            self.process.kill()
        if ended:
            return
        self.log.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others' logs are there
            self.log.parent.rmdir()

    def last_words(self) -> str:
        """Why it ended: the first error that it names, or its last line."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [match[1] for line in lines if "WARN" not in line and (match := _ERROR.search(line))]
        return (errors or lines or ["it said nothing"])[0 if errors else -1].strip()[-300:]


_ERROR = re.compile(r"(?:^| )((?:\w+Error|\w*error): .+)")


def start_servers(
    folder: str,
    options: ServerOptions,
    gpus: Sequence[int | None],
    *,
    ports: Sequence[int] = (),
    host: str = "127.0.0.1",
    logs: Path | None = None,
) -> list[tuple[str, ServerProcess]]:
    """Starts a server on each of the GPUs (None: the CPU); returns their addresses, not waiting for them.

    Raises UserError for an address that others reach without a key in the environment: whoever reaches a
    server can replace its weights and call its methods.
    """
    check_python(options.python)
    if host not in ("127.0.0.1", "localhost") and not os.environ.get(KEY_VARIABLE):
        raise UserError(
            f"host={host} lets other machines replace the server's weights and call its methods; set a key "
            f"for server and run: export {KEY_VARIABLE}=<secret>, or leave 127.0.0.1"
        )
    logs = Path(tempfile.mkdtemp(prefix="openvlt-servers-")) if logs is None else logs
    logs.mkdir(parents=True, exist_ok=True)
    started = []
    for number, gpu in enumerate(gpus):
        port = ports[number] if ports else _free_port()
        command = server_command(folder, port, options, gpu=gpu, host=host)
        process = ServerProcess(command, server_environment(gpu), logs / f"vllm-{port}.log")
        started.append((f"http://127.0.0.1:{port}", process))
    return started


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _guard(command: Sequence[str]) -> int:
    """Runs a server until it ends, or until this process's input closes; then ends all its processes."""
    environment = {**os.environ, "PYTHONPATH": os.environ["OPENVLT_SERVER_PATH"]}
    ctypes.CDLL(None).prctl(_ADOPT, 1)  # what the server leaves behind is waited for, too
    server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)

    def end(status: int) -> NoReturn:
        # first kindly: Python's own helper then removes the shared memory of those that were killed
        for sent, wait_s in ((signal.SIGTERM, _END_S), (signal.SIGKILL, 1.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, sent)
            if _wait_for_children(wait_s):
                break
        os._exit(status)

    def follow(*_: object) -> None:
        if server.poll() is not None:
            end(1)

    signal.signal(signal.SIGTERM, lambda *_: end(0))
    signal.signal(signal.SIGCHLD, follow)
    follow()
    sys.stdin.buffer.read()  # returns when the owner is gone
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    end(0)


def _wait_for_children(wait_s: float) -> bool:
    """Whether all children of this process end within `wait_s` seconds."""
    until = time.monotonic() + wait_s
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.02)
        return False
    return True


if __name__ == "__main__":
    sys.exit(_guard(sys.argv[1:]))
