"""Generation by vLLM servers: new weights go to them before a rollout, and every answer is checked."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openvlt import distributed
from openvlt.config.validate import check_positive
from openvlt.errors import UserError
from openvlt.model.export import has_adapter, merged_weights, weights_digest, write_untied_model
from openvlt.model.load import VLM
from openvlt.model.shard import whole_weights
from openvlt.rollout.base import GenerationRequest, Sampling
from openvlt.rollout.vllm_requests import make_requests, prompt_ids, read_completions
from openvlt.rollout.vllm_weights import AdapterRoute, FileRoute, GroupRoute, adapter_version, new_folder
from openvlt.serving.vllm.client import LostServer, PendingAnswers, VLLMServer
from openvlt.serving.vllm.process import (
    ServerOptions,
    ServerProcess,
    await_server,
    check_python,
    start_servers,
)
from openvlt.types import Completion, Problem, Prompts

ROUTES = ("files", "group", "adapter")
BACKENDS = ("gloo", "nccl")


@dataclass(frozen=True)
class VLLMGenerator:
    """`conf/rollout/vllm.yaml`: asks vLLM servers, those at `urls` or, with `start`, some of the run's own.

    Process r asks `urls[r % len(urls)]`. With `start` each process has a server on its own GPU, or all share
    those on `gpus` of each machine; on a CPU there is one. `weights` says how new ones travel; `folder` is
    where files for a server are written. With `sleep` a server gives its memory back while the model learns;
    with `ahead` 1 it generates the next rollout batch then.
    """

    urls: Sequence[str] = ()
    start: bool = False
    gpus: Sequence[int] | None = None
    server: ServerOptions = field(default_factory=ServerOptions)
    weights: str = "files"
    backend: str = "gloo"
    folder: str | None = None
    sleep: bool = False
    ahead: int = 0
    concurrency: int = 256
    deadline_s: float = 3600.0
    wait_s: float = 600.0
    _state: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_positive(self, "rollout", "concurrency", "deadline_s", "wait_s")
        for name, words in (("weights", ROUTES), ("backend", BACKENDS)):
            if getattr(self, name) not in words:
                raise UserError(f"rollout.{name}={getattr(self, name)}; choose from {', '.join(words)}")
        if self.ahead not in (0, 1):
            raise UserError(
                f"rollout.ahead={self.ahead}; 1 generates the next rollout batch while this one is learned "
                "from, 0 doesn't"
            )
        if self.ahead and self.sleep:
            raise UserError(
                "rollout.ahead=1 has the servers generate while the model learns, when rollout.sleep=true "
                "lets them rest; leave one of them out"
            )
        if bool(self.urls) == self.start:
            raise UserError(
                "rollout=vllm needs either rollout.start=true, which starts its own servers, or the "
                "addresses of some (python -m openvlt.serving <model folder>): rollout.urls=[http://127.0.0.1:8000]"
            )

    def check(self) -> None:
        """Raises UserError when no server can be started, or none answers at this process's address."""
        if self.start:
            check_python(self.server.python)
            return
        server = self._make_server(list(self.urls), distributed.rank())
        server.config()

    def _make_server(self, urls: Sequence[str], number: int) -> VLLMServer:
        """One of the servers, waited for."""
        server = VLLMServer(
            urls[number % len(urls)], deadline_s=self.deadline_s, concurrency=self.concurrency
        )
        if not self.start and not server.is_ready() and distributed.is_main():
            print(f"waiting up to {self.wait_s:g} s for the vLLM server at {server.url}", flush=True)
        server.wait(self.wait_s)
        return server

    # --- weights --------------------------------------------------------------------------------------------

    def sync(self, vlm: VLM) -> None:
        """Makes every server hold the weights of `vlm`; all processes take part.

        A version is a hash of the weights themselves. So nothing is sent twice, and a server that was started
        again, or that another run uses, is seen.
        """
        with whole_weights(vlm.model), contextlib.ExitStack() as block:
            self._connect(vlm)
            server: VLLMServer = self._state["server"]
            block.enter_context(_last_words(server.url))
            if self.sleep and self._state["leads"]:
                server.wake()
            alone = self.weights == "adapter" and has_adapter(vlm.model)
            with vlm.model.disable_adapter() if alone else contextlib.nullcontext():
                self._send_weights(vlm, server)
            self._state["model"] = None
            if alone:
                self._send_adapter(vlm, server)

    def _send_weights(self, vlm: VLM, server: VLLMServer) -> None:
        version = self._state["version"] = weights_digest(merged_weights(vlm))
        stale = self._state["leads"] and server.version() != version
        if not any(distributed.all_gather([stale])):
            return
        self._refuse_beside_requests()
        route: FileRoute | GroupRoute = self._state["route"]
        try:
            if self._state["writes"]:
                route.prepare(vlm, version)
            distributed.barrier()
            if stale:
                route.send(vlm, server, version)
            distributed.barrier()
        finally:
            if self._state["writes"]:
                route.clean(version)

    def _send_adapter(self, vlm: VLM, server: VLLMServer) -> None:
        version = adapter_version(vlm)
        self._state["model"] = f"adapter-{version}"
        missing = self._state["leads"] and f"adapter-{version}" not in server.adapters()
        if self._state.get("pending") and any(distributed.all_gather([missing])):
            self._refuse_beside_requests()
        if missing:
            self._state["adapter"].send(vlm, server, version)
        distributed.barrier()

    def _refuse_beside_requests(self) -> None:
        """Raises UserError where other weights would reach completions that are being generated."""
        if self._state.get("pending"):
            raise UserError(
                "rollout.ahead=1: something asks the servers for another model (a reward term for the "
                "reference?) while they generate the next rollout batch; leave it out, or set rollout.ahead=0"
            )

    def rest(self) -> None:
        """Lets this run's servers give their memory back until the next `sync`; all processes take part."""
        if self.sleep and "server" in self._state:
            distributed.barrier()  # another process may still be asking
            if self._state["leads"]:
                self._state["server"].sleep()

    # --- servers --------------------------------------------------------------------------------------------

    def _connect(self, vlm: VLM) -> None:
        """Finds or starts this process's server, once."""
        key = _architecture(vlm)
        if self._state.get("key") == key:
            return
        local = int(os.environ.get("LOCAL_RANK", distributed.rank()))
        urls, number = list(self.urls), distributed.rank()
        if self.start:
            urls, number = self._own_servers(vlm, key, local), local
        server = self._make_server(urls, number)
        name = distributed.broadcast(f"openvlt-{secrets.token_hex(4)}")
        place = self._place()
        route = GroupRoute(self.backend) if self.weights == "group" else FileRoute(place, name)
        adapter = AdapterRoute(place, name)
        atexit.register(adapter.clean)
        self._state.update(
            key=key,
            server=server,
            config=server.config(),
            leads=number < len(urls),
            writes=local == 0 if self.start else distributed.is_main(),
            route=route,
            adapter=adapter,
        )

    def _own_servers(self, vlm: VLM, key: str, local: int) -> list[str]:
        """The addresses of this machine's own servers; the machine's first process starts them."""
        machine = distributed.rank() - local
        started: list[tuple[int, list[str]]] = []
        if local == 0:
            started.append((machine, _started_here(vlm, f"{key}{self.gpus}{self.server}", self)))
        return dict(distributed.all_gather(started))[machine]

    def start_here(self, vlm: VLM) -> list[tuple[str, ServerProcess]]:
        """Starts this machine's servers with the weights of `vlm`, and waits until they are ready."""
        folder = self._place() / f"openvlt-server-{secrets.token_hex(4)}"
        world = int(os.environ.get("LOCAL_WORLD_SIZE", distributed.world_size()))
        own = range(world) if self.gpus is None else self.gpus
        gpus = list(own) if vlm.device.type == "cuda" else [None]
        adapters = self.weights == "adapter" and hasattr(vlm.model, "peft_config")
        rank = max(settings.r for settings in vlm.model.peft_config.values()) if adapters else 0  # type: ignore[attr-defined]
        options = replace(
            self.server, dtype=str(vlm.core.dtype).removeprefix("torch."), lora_rank=rank, sleep=self.sleep
        )
        try:
            with new_folder(folder):
                write_untied_model(vlm, folder)
            servers = start_servers(str(folder), options, gpus)
            many = f"{len(servers)} vLLM servers" if len(servers) > 1 else "a vLLM server"
            print(f"starting {many}, which takes a minute or more (log: {servers[0][1].log})", flush=True)
            for url, process in servers:
                atexit.register(process.stop)
                await_server(url, process, self.wait_s)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return servers

    def _place(self) -> Path:
        """Where files for a server are written: memory, if the system offers it as a folder."""
        if self.folder is not None:
            return Path(self.folder)
        return Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir())

    # --- generating -----------------------------------------------------------------------------------------

    def generate(
        self, vlm: VLM, problems: Sequence[Problem], prompts: Prompts, sampling: Sampling, seed: int
    ) -> list[Completion]:
        """See `Generator`; `sync` comes first. Raises UserError for an answer that doesn't fit."""
        server, version = self._current_server()
        bodies = self._bodies(vlm, GenerationRequest(problems, prompts, sampling, seed))
        with _last_words(server.url):
            answers = server.generate(bodies)
        return read_completions(vlm, problems, _prompt_rows(prompts), answers, sampling, version)

    def begin(self, vlm: VLM, requests: Sequence[GenerationRequest]) -> _PendingRequests:
        """See `AheadGenerator`; `sync` comes first."""
        server, version = self._current_server()
        bodies = [body for request in requests for body in self._bodies(vlm, request)]
        pending = _PendingRequests(
            vlm, tuple(requests), version, server.begin(bodies), server.url, self._state
        )
        self._state["pending"] = pending
        return pending

    def _current_server(self) -> tuple[VLLMServer, str]:
        """This process's server, and the version of the weights that it was sent."""
        if "version" not in self._state:
            raise RuntimeError("VLLMGenerator.generate before sync; use generate_on_ranks")
        return self._state["server"], self._state["version"]

    def _bodies(self, vlm: VLM, request: GenerationRequest) -> list[dict[str, Any]]:
        """What the server is sent. Raises UserError where prompt and response are longer than it allows."""
        longest = max(map(len, _prompt_rows(request.prompts)), default=0)
        self._check_room(longest, request.sampling.max_new_tokens)
        bodies = make_requests(vlm, *request)
        model = self._state["model"]
        return bodies if model is None else [{**body, "model": model} for body in bodies]

    def _check_room(self, prompt: int, response: int) -> None:
        length = self._state["config"]["model_config"]["max_model_len"]
        if prompt + response > length:
            setting = "rollout.server.max_model_len=" if self.start else "--max-model-len "
            raise UserError(
                f"{self._state['server'].url} was started with max_model_len {length}, less than prompt "
                f"{prompt} + response {response}; start it with {setting}{prompt + response} or more"
            )


@dataclass(frozen=True)
class _PendingRequests:
    """Completions that a server generates ahead, with the weights of `version`."""

    vlm: VLM
    requests: tuple[GenerationRequest, ...]
    version: str
    answers: PendingAnswers
    url: str
    state: dict[str, Any] = field(repr=False)  # the generator's

    @property
    def seconds(self) -> float:
        return self.answers.seconds

    def wait(self) -> list[list[Completion]]:
        try:
            with _last_words(self.url):
                answers = iter(self.answers.wait())
        finally:
            self.state["pending"] = None
        return [self._read(request, [next(answers) for _ in request.problems]) for request in self.requests]

    def _read(self, request: GenerationRequest, answers: list[dict[str, Any]]) -> list[Completion]:
        ids = _prompt_rows(request.prompts)
        return read_completions(self.vlm, request.problems, ids, answers, request.sampling, self.version)

    def cancel(self) -> None:
        self.answers.cancel()
        self.state["pending"] = None


def _prompt_rows(prompts: Prompts) -> list[list[int]]:
    return [prompt_ids(prompts, row) for row in range(len(prompts))]


_servers: dict[str, list[tuple[str, ServerProcess]]] = {}  # of this process, for all its generators


def _started_here(vlm: VLM, key: str, generator: VLLMGenerator) -> list[str]:
    """The addresses of servers that this process has started for models of this kind, or starts now."""
    if key not in _servers or not all(process.is_running() for _, process in _servers[key]):
        _servers[key] = generator.start_here(vlm)
    return [url for url, _ in _servers[key]]


@contextlib.contextmanager
def _last_words(url: str) -> Iterator[None]:
    """Inside, the loss of a server that this process has started names its own error and its log."""
    try:
        yield
    except LostServer as error:
        own = [process for servers in _servers.values() for there, process in servers if there == url]
        if not own:
            raise
        raise LostServer(f"{error}; it said: {own[0].last_words()} (log: {own[0].log})") from error


def _architecture(vlm: VLM) -> str:
    """A hash of what a server must share with a model to hold its weights: config, type and image sizes."""
    config = {**vlm.core.config.to_dict(), "_name_or_path": "", "tie_word_embeddings": None}  # type: ignore[attr-defined]
    images = getattr(vlm.processor, "image_processor", None)
    settings = "" if images is None else images.to_json_string()
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.blake2b(f"{text}{settings}{vlm.core.dtype}".encode(), digest_size=8).hexdigest()
