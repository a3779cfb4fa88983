"""What a vLLM server looks like to `rollout=vllm`, without a model: it answers with random tokens, and can hold its answers back.

It runs in threads of this process. Prompts must be without images, which a real server would expand.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from openvlt.model.load import VLM

PATIENCE_S = 60.0  # which only a test that fails reaches
CONFIG = {
    "model_config": {"logprobs_mode": "processed_logprobs", "max_model_len": 4096},
    "parallel_config": {"worker_extension_cls": "openvlt.WeightReceiver"},
}


class StubVLLM(ThreadingHTTPServer):
    """`log` holds ("weights", version) and ("request", version, seed); requests from number `hold_from` on wait for `release`.

    `answer_as` is the version that answers name, if it isn't the true one; with `drop` connections end without an answer. `tired` is true
    when it held a request back for a minute, which nothing that works lets it do.
    """

    daemon_threads = True

    def __init__(self, vlm: VLM) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        banned = set(vlm.banned_V().nonzero()[:, 0].tolist()) | set(vlm.stop_ids)
        self.tokens = [token for token in range(len(vlm.banned_V())) if token not in banned]
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.version, self.log = "default", list[tuple[Any, ...]]()
        self.changed, self.release = threading.Condition(), threading.Event()
        self.hold_from, self.answer_as, self.drop, self.tired = 10**9, "", False, False

    def note(self, *entry: Any) -> int:
        """Its number among those of its kind."""
        with self.changed:
            self.log.append(entry)
            self.changed.notify_all()
            return sum(one[0] == entry[0] for one in self.log)

    def await_requests(self, amount: int) -> None:
        """Returns when so many requests have come."""
        with self.changed:
            came = self.changed.wait_for(lambda: len(self.versions()) >= amount, PATIENCE_S)
        assert came, f"{len(self.versions())} of {amount} requests came"

    def versions(self) -> list[str]:
        """The weights that were there when each request came."""
        return [entry[1] for entry in self.log if entry[0] == "request"]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Does nothing: clients may leave."""


class _Handler(BaseHTTPRequestHandler):
    server: StubVLLM
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = {"/health": {}, "/server_info": {"vllm_config": CONFIG}}
        found |= {"/weight_info": {"weight_version": self.server.version}, "/v1/models": {"data": []}}
        self.reply(found[self.path.partition("?")[0]])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        if self.path == "/inference/v1/generate":
            self.generate(body)
            return
        if self.path == "/update_weight_version":
            self.server.version = body["new_version"]
            self.server.note("weights", self.server.version)
        self.reply({})

    def generate(self, body: dict[str, Any]) -> None:
        server, asked = self.server, body["sampling_params"]
        number = server.note("request", server.version, asked["seed"])
        if number > server.hold_from and not server.release.wait(PATIENCE_S):
            server.drop = server.tired = True
        if server.drop:
            self.close_connection = True
            return
        choices = [
            self.choice(index, asked, server.answer_as or server.version) for index in range(asked["n"])
        ]
        self.reply({"prompt_token_ids": body["token_ids"], "choices": choices})

    def choice(self, index: int, asked: dict[str, Any], version: str) -> dict[str, Any]:
        draw = random.Random(f"{asked['seed']}|{index}")
        tokens = draw.choices(self.server.tokens, k=asked["max_tokens"])
        return {
            "index": index,
            "token_ids": tokens,
            "logprobs": {"content": [{"logprob": -4.0} for _ in tokens]},
            "finish_reason": "length",
            "weight_versions": [{"version": version, "start": 0, "end": len(tokens)}],
        }

    def reply(self, answer: Any) -> None:
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextlib.contextmanager
def stub_vllm(vlm: VLM, **settings: Any) -> Iterator[StubVLLM]:
    """A running one; afterwards nothing of it waits any more."""
    server = StubVLLM(vlm)
    for name, value in settings.items():
        setattr(server, name, value)
    thread = in_thread(lambda: server.serve_forever(poll_interval=0.01))
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


def in_thread(function: Callable[[], None]) -> threading.Thread:
    """A thread that has begun to call the function."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread
