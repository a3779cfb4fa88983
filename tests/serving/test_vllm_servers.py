"""How vLLM servers are started, watched and asked, with a stand-in for vLLM: what it is told, and what it may not do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from transformers import Qwen2_5_VLConfig

from openvlt.errors import UserError
from openvlt.rollout.vllm import VLLMGenerator
from openvlt.serving.__main__ import main
from openvlt.serving.vllm import process
from openvlt.serving.vllm.client import KEY_VARIABLE, LostServer, VLLMServer
from openvlt.serving.vllm.process import (
    ServerOptions,
    ServerProcess,
    server_command,
    server_environment,
    start_servers,
)
from openvlt.serving.vllm.worker import KeyCheck

ROOT = Path(__file__).parents[2]


def test_a_command_says_what_the_project_needs():
    words = server_command(
        "m", 8000, ServerOptions(max_model_len=99, lora_rank=4, arguments=("--more",)), gpu=None
    )
    pairs = dict(zip(words, words[1:], strict=False))
    assert pairs["--host"] == "127.0.0.1" and pairs["--logprobs-mode"] == "processed_logprobs"
    assert pairs["--max-model-len"] == "99" and pairs["--max-lora-rank"] == "4" and words[-1] == "--more"
    assert {"--enable-scale-out", "--enforce-eager", "--enable-lora"} <= set(words)
    assert "--middleware" not in words and "--gpu-memory-utilization" not in words
    words = server_command("m", 8000, ServerOptions(memory=0.4, sleep=True), gpu=3, host="0.0.0.0")
    pairs = dict(zip(words, words[1:], strict=False))
    assert pairs["--gpu-memory-utilization"] == "0.4" and "--enable-sleep-mode" in words
    assert pairs["--middleware"].endswith("KeyCheck") and "--enforce-eager" not in words


def test_a_servers_variables_are_its_own(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    on_gpu, on_cpu = server_environment(3), server_environment(None)
    assert on_gpu["CUDA_VISIBLE_DEVICES"] == "3" and "RANK" not in on_gpu and "WORLD_SIZE" not in on_gpu
    assert on_cpu["VLLM_SERVER_DEV_MODE"] == "1" and on_cpu["PYTHONPATH"].split(os.pathsep)[0].endswith(
        "site"
    )


def test_another_address_needs_a_key(monkeypatch, tmp_path):
    monkeypatch.setattr(process, "check_python", lambda _: None)
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(
        UserError, match=f"host=0.0.0.0 lets other machines replace .* export {KEY_VARIABLE}="
    ):
        start_servers("m", ServerOptions(), [None], host="0.0.0.0", logs=tmp_path)


@pytest.mark.parametrize(
    ("path", "sent", "passes"),
    [
        ("/health", None, True),
        ("/collective_rpc", None, False),
        ("/collective_rpc", b"Bearer wrong", False),
        ("/v1/models", b"Bearer secret\xc3\xa9", False),
        ("/collective_rpc", b"Bearer secret", True),
    ],
)
def test_the_key_is_asked_for_on_every_path(monkeypatch, path, sent, passes):
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    reached, answers = [], []

    async def app(scope, receive, send):
        reached.append(scope["path"])

    async def send(message):
        answers.append(message)

    headers = [] if sent is None else [(b"authorization", sent)]
    asyncio.run(KeyCheck(app)({"type": "http", "path": path, "headers": headers}, None, send))
    assert bool(reached) == passes and (passes or answers[0]["status"] == 401)


# --- processes ----------------------------------------------------------------------------------------------------------

STAND_IN = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print("pids", child.pid, flush=True)
time.sleep(1000)
"""


def started(tmp_path: Path, code: str) -> ServerProcess:
    return ServerProcess([sys.executable, "-c", code], server_environment(None), tmp_path / "log")


def children(log: Path) -> list[int]:
    while "pids" not in log.read_text():
        time.sleep(0.02)
    return [int(word) for word in log.read_text().split()[1:]]


def wait_until_gone(pids: list[int]) -> None:
    while any(
        Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
        for pid in pids
    ):
        time.sleep(0.02)


def test_stopping_ends_all_processes_of_a_server(tmp_path):
    server = started(tmp_path, STAND_IN)
    pids = children(server.log)
    assert server.is_running()
    server.stop()
    wait_until_gone(pids)
    assert not server.is_running()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_ends_with_its_owner_however_that_ends(tmp_path, number):
    code = (
        "import sys, time; from pathlib import Path; from tests.serving.test_vllm_servers import started, STAND_IN, children\n"
        "server = started(Path(sys.argv[1]), STAND_IN); print(*children(server.log), flush=True); time.sleep(1000)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    pids = [int(word) for word in owner.stdout.readline().split()]
    owner.send_signal(number)
    owner.wait()
    wait_until_gone(pids)


def test_the_processes_of_a_server_end_with_it(tmp_path):
    """vLLM's engine outlives the process that was asked, if nobody ends it."""
    server = started(tmp_path, "import os" + STAND_IN.replace("child.pid", "os.getpid(), child.pid"))
    own, engine = children(server.log)
    os.kill(own, signal.SIGKILL)
    wait_until_gone([engine])
    assert server.process.wait() == 1


def test_a_killed_server_leaves_no_shared_memory(tmp_path):
    """Its resource tracker, a process that Python starts, removes it, unless it is killed too."""
    code = (
        "import os, time; from multiprocessing.shared_memory import SharedMemory\n"
        "memory = SharedMemory(create=True, size=1); print('pids', os.getpid(), end=' ', flush=True)\n"
        "print(int(memory.name.removeprefix('psm_'), 16), flush=True); time.sleep(1000)"
    )
    server = started(tmp_path, code)
    while "\n" not in server.log.read_text():
        time.sleep(0.02)
    own, name = (int(word) for word in server.log.read_text().split()[1:])
    memory = Path(f"/dev/shm/psm_{name:08x}")
    assert memory.exists()
    os.kill(own, signal.SIGKILL)
    assert server.process.wait() == 1 and not memory.exists()


def test_a_server_that_ends_while_it_starts_says_why(tmp_path):
    server = started(tmp_path, "print('INFO hello'); raise ValueError('no room for the cache')")
    with pytest.raises(
        UserError, match="the vLLM server ended while it started: ValueError: no room for the cache"
    ):
        VLLMServer("http://127.0.0.1:9").wait(60, server)
    silent = started(tmp_path, "pass")
    with pytest.raises(UserError, match="ended while it started: it said nothing"):
        VLLMServer("http://127.0.0.1:9").wait(60, silent)


def test_a_warning_that_mentions_an_error_is_not_the_cause(tmp_path):
    words = "WARNING errors such as OSError: [Errno 24] Too many open files can come"
    server = started(tmp_path, f"print('{words}', flush=True); raise KeyError('the cause')")
    with pytest.raises(UserError, match="while it started: KeyError: 'the cause'"):
        VLLMServer("http://127.0.0.1:9").wait(60, server)


@pytest.mark.parametrize(
    ("python", "sentence"),
    [("/no/python", "can't be run"), (sys.executable, "no vLLM in the environment of")],
)
def test_a_python_without_vllm_is_refused_before_a_run(python, sentence):
    with pytest.raises(UserError, match=sentence):
        VLLMGenerator(start=True, server=ServerOptions(python=python)).check(Qwen2_5_VLConfig())


def test_serving_without_vllm_is_one_sentence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "openvlt.serving", str(tmp_path), "--gpus", "none", "--port", "9"],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "there is no vLLM in the environment of this python; install it" in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["/no/where"], "/no/where: there is no such folder; give"),
        (["m", "--gpus", "x"], "'x': give the numbers of GPUs, as 0,1,2, or none for a CPU"),
        (["m", "--gpus", "none", "--python", "/no/python"], "server.python=/no/python can't be run"),
    ],
)
def test_mistakes_in_serving_are_one_sentence(words, sentence, capsys):
    with contextlib.suppress(SystemExit):  # argparse's
        assert main(words) == 2
    assert sentence in capsys.readouterr().err


# --- what servers say ---------------------------------------------------------------------------------------------------


class Answers(BaseHTTPRequestHandler):
    """Answers each path with `replies[path]`: a status and a text; None closes the connection without one."""

    replies: dict[str, tuple[int, str] | None] = {}

    def do_GET(self) -> None:
        reply = self.replies.get(self.path.split("?")[0], (404, '{"detail": "Not Found"}'))
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if reply is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        text = body if reply[1] == "echo" else reply[1].encode()
        self.send_response(reply[0])
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[tuple[str, dict]]:
    """A server's address, and its replies to be filled in."""
    kind = type("Own", (Answers,), {"replies": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", kind.replies
        server.shutdown()


def config(
    mode: str = "processed_logprobs", worker: str = "openvlt.serving.vllm.worker.WeightReceiver"
) -> tuple[int, str]:
    settings = {"model_config": {"logprobs_mode": mode}, "parallel_config": {"worker_extension_cls": worker}}
    return 200, json.dumps({"vllm_config": settings})


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        ((404, "{}"), "answers, but without vLLM's development endpoints"),
        (config(mode="raw_logprobs"), "reports raw_logprobs, not what was sampled from"),
        (config(worker=""), "can't take weights from here"),
        ((401, "{}"), f"asks for a key: export {KEY_VARIABLE}="),
    ],
)
def test_a_server_started_otherwise_is_refused(answers, reply, sentence):
    answers[1]["/server_info"] = reply
    with pytest.raises(UserError, match=sentence):
        VLLMServer(answers[0]).config()
    answers[1]["/server_info"] = config()
    assert VLLMServer(answers[0] + "/v1").config()


@pytest.mark.parametrize(
    ("reply", "kind", "sentence"),
    [
        (None, LostServer, "was lost while it generated"),
        (
            (500, '{"error": {"message": "EngineCore encountered an issue"}}'),
            LostServer,
            "was lost .*EngineCore encountered",
        ),
        (
            (400, '{"error": {"message": "At most 8 image(s)"}}'),
            UserError,
            r"refuses a request \(status 400\): At most 8",
        ),
        ((404, "{}"), UserError, "has no /inference/v1/generate"),
    ],
)
def test_what_goes_wrong_in_a_rollout_is_one_sentence(answers, reply, kind, sentence):
    answers[1]["/inference/v1/generate"] = reply
    with pytest.raises(kind, match=sentence) as caught:
        VLLMServer(answers[0]).generate([{"token_ids": [1]}] * 3)
    assert len(str(caught.value).splitlines()) == 1


def test_answers_come_in_the_order_of_their_requests(answers):
    answers[1]["/inference/v1/generate"] = (200, "echo")
    requests = [{"token_ids": [number]} for number in range(20)]
    assert VLLMServer(answers[0], concurrency=3).generate(requests) == requests


@pytest.mark.parametrize(
    "path", ["/pause", "/collective_rpc", "/reset_mm_cache", "/update_weight_version", "/resume"]
)
def test_weights_that_are_not_taken_lose_the_server(answers, path):
    paths = ("/pause", "/collective_rpc", "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache", "/update_weight_version", "/resume")  # fmt: skip
    answers[1].update({one: (200, "") for one in paths})
    VLLMServer(answers[0]).replace_weights("receive_folder", ["x"], "v")
    answers[1][path] = (500, '{"error": {"message": "shape"}}')
    with pytest.raises(LostServer, match=rf"didn't take new weights \({path}: status 500, shape\).* resume="):
        VLLMServer(answers[0]).replace_weights("receive_folder", ["x"], "v")
