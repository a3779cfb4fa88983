"""Generation by vLLM servers: new weights go to them before a rollout, and every answer is checked."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openvlt import distributed
from openvlt.config.validate import check_positive
from openvlt.errors import UserError
from openvlt.model.export import has_adapter, merged_weights, weights_digest
from openvlt.model.hf_types import ModelConfig
from openvlt.model.load import VLM
from openvlt.model.shard import whole_weights
from openvlt.rollout.base import GenerationRequest, Sampling
from openvlt.rollout.vllm_requests import PendingRequests, make_requests, prompt_rows, read_completions
from openvlt.rollout.vllm_servers import OwnServers, architecture, check_family, last_words, local_rank
from openvlt.rollout.vllm_weights import AdapterRoute, FileRoute, GroupRoute, adapter_version
from openvlt.serving.vllm.client import VLLMServer
from openvlt.serving.vllm.process import ServerOptions, check_python
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

    def check(self, config: ModelConfig) -> None:
        """Raises UserError for a model that vLLM can't serve as it is, and without a server or vLLM."""
        check_family(config)
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
            block.enter_context(last_words(server.url))
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
        key = architecture(vlm)
        if self._state.get("key") == key:
            return
        check_family(vlm.core.config)
        urls, number, local = list(self.urls), distributed.rank(), local_rank()
        if self.start:
            own = OwnServers(self._options(vlm), self.gpus, self._place(), self.wait_s)
            urls, number = own.addresses(vlm, f"{key}{self.gpus}{self.server}"), local
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

    def _options(self, vlm: VLM) -> ServerOptions:
        """How this run's servers are started for `vlm`."""
        adapters = self.weights == "adapter" and hasattr(vlm.model, "peft_config")
        rank = max(settings.r for settings in vlm.model.peft_config.values()) if adapters else 0  # type: ignore[attr-defined]
        dtype = str(vlm.core.dtype).removeprefix("torch.")
        return replace(self.server, dtype=dtype, lora_rank=rank, sleep=self.sleep)

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
        with last_words(server.url):
            answers = server.generate(bodies)
        return read_completions(vlm, problems, prompt_rows(prompts), answers, sampling, version)

    def begin(self, vlm: VLM, requests: Sequence[GenerationRequest]) -> PendingRequests:
        """See `AheadGenerator`; `sync` comes first."""
        server, version = self._current_server()
        bodies = [body for request in requests for body in self._bodies(vlm, request)]
        pending = PendingRequests(
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
        longest = max(map(len, prompt_rows(request.prompts)), default=0)
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
