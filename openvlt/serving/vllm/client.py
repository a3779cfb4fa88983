"""A client of one vLLM server as the project starts it: token ids and images in, tokens out, and new weights.

Unlike `openvlt.serving.client`, nothing is retried: with a server's process its weights are gone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import httpx

from openvlt.errors import UserError, first_line

if TYPE_CHECKING:
    from openvlt.serving.vllm.process import ServerProcess

KEY_VARIABLE = "OPENVLT_SERVER_KEY"
CACHES = ("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache")
START_IT = "start it with: python -m openvlt.serving <model folder>"
_PAUSE_S = 0.2


class LostServer(UserError):
    """A server that ended, or whose weights are in an unknown state."""


class VLLMServer:
    """One server at `url` (without /v1). A request may take `deadline_s`, `concurrency` run at once."""

    def __init__(self, url: str, *, deadline_s: float = 600.0, concurrency: int = 256) -> None:
        self.url, self.deadline_s, self.concurrency = (
            url.rstrip("/").removesuffix("/v1"),
            deadline_s,
            concurrency,
        )
        key = os.environ.get(KEY_VARIABLE)
        self._settings: dict[str, Any] = {
            "base_url": self.url,
            "timeout": httpx.Timeout(deadline_s, connect=10.0, pool=None),
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "trust_env": False,  # a server of the run's own isn't behind a proxy
        }

    # --- its state ------------------------------------------------------------------------------------------

    def is_ready(self) -> bool:
        """Whether the server answers and is healthy."""
        try:
            return httpx.get(f"{self.url}/health", timeout=10.0, trust_env=False).status_code == 200
        except (httpx.HTTPError, httpx.InvalidURL):
            return False

    def wait(self, wait_s: float, process: ServerProcess | None = None) -> None:
        """Returns when the server is ready.

        Raises UserError after `wait_s` seconds, or when its process, if that is ours, ends instead.
        """
        until = time.monotonic() + wait_s
        while not self.is_ready():
            if process is not None and not process.is_running():
                raise UserError(f"the vLLM server ended while it started: {process.last_words()}")
            if time.monotonic() > until:
                fix = f"{START_IT}, or correct rollout.urls"
                if process is not None:
                    fix = f"its log ends with {process.last_words()!r}; give it longer (wait_s)"
                raise UserError(f"no vLLM server answers at {self.url} after {wait_s:g} s; {fix}")
            time.sleep(_PAUSE_S)

    def is_local(self) -> bool:
        """Whether the server runs on this machine."""
        return httpx.URL(self.url).host in ("127.0.0.1", "localhost")

    def config(self) -> dict[str, Any]:
        """The server's settings (`VllmConfig`). Raises UserError for a server that can't be used."""
        status, body = self._call("GET", "/server_info?config_format=json")
        if status == 404:
            raise UserError(
                f"{self.url} answers, but without vLLM's development endpoints, which take new weights; "
                f"{START_IT}"
            )
        config = body["vllm_config"]
        mode = config["model_config"]["logprobs_mode"]
        if mode != "processed_logprobs":
            raise UserError(f"{self.url} reports {mode}, not what was sampled from; {START_IT}")
        if not config["parallel_config"]["worker_extension_cls"].endswith("WeightReceiver"):
            raise UserError(f"{self.url} can't take weights from here; {START_IT}")
        return config

    def version(self) -> str:
        """The version of the weights that the server holds; `default` are those that it started with."""
        return str(self._call("GET", "/weight_info")[1]["weight_version"])

    # --- generating -----------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The server's answers to bodies of `/inference/v1/generate`, in their order.

        Raises UserError for a request that the server refuses, LostServer when it ends.
        """
        with anyio.from_thread.start_blocking_portal() as portal:
            return portal.call(self._generate_all, requests)

    def begin(self, requests: Sequence[Mapping[str, Any]]) -> PendingAnswers:
        """Sends what `generate` sends, in a thread of its own, and returns at once."""
        return PendingAnswers(self, requests)

    async def _generate_all(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = [{} for _ in requests]
        limits = httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency)
        async with httpx.AsyncClient(**self._settings, limits=limits) as client:

            async def ask(number: int) -> None:
                answers[number] = await self._ask(client, requests[number])

            try:
                async with anyio.create_task_group() as tasks:
                    for number in range(len(requests)):
                        tasks.start_soon(ask, number)
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
        return answers

    async def _ask(self, client: httpx.AsyncClient, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            response = await client.post("/inference/v1/generate", json=request)
        except httpx.HTTPError as error:
            raise self._lost("while it generated", _cause(error)) from error
        if response.status_code == 404 and "model" not in response.text:
            raise UserError(f"{self.url} has no /inference/v1/generate; {START_IT}")
        if response.status_code >= 500 and "EngineCore" in response.text:
            raise self._lost("while it generated", _detail(response))
        if response.status_code != 200:
            raise UserError(
                f"{self.url} refuses a request (status {response.status_code}): {_detail(response)}"
            )
        return response.json()

    # --- weights --------------------------------------------------------------------------------------------

    def replace_weights(self, method: str, arguments: Sequence[Any], version: str) -> None:
        """Has the workers run a method that loads weights, and names them `version`.

        The order matters: without the pause a request would see both, without the resets a cached prompt or
        image would keep the old weights, or end the server. Raises LostServer when the weights weren't taken.
        """
        self._post("/pause?mode=wait&clear_cache=true")
        self._post("/collective_rpc", {"method": method, "args": list(arguments)})
        for cache in CACHES:
            self._post(cache)
        self._post("/update_weight_version", {"new_version": version})
        self._post("/resume")

    def call_workers(self, method: str, arguments: Sequence[Any]) -> None:
        """Has the workers run a method."""
        self._post("/collective_rpc", {"method": method, "args": list(arguments)})

    def worker_count(self) -> int:
        """How many workers hold the server's weights."""
        return int(self._call("GET", "/get_world_size")[1]["world_size"])

    def load_adapter(self, name: str, folder: str) -> None:
        """Loads a PEFT adapter under a new name."""
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": folder})

    def unload_adapter(self, name: str) -> None:
        """Forgets an adapter."""
        self._post("/v1/unload_lora_adapter", {"lora_name": name})

    def adapters(self) -> list[str]:
        """The names of what can be asked for, the base model's among them."""
        return [model["id"] for model in self._call("GET", "/v1/models")[1]["data"]]

    def sleep(self) -> None:
        """Moves the weights into host memory and gives the cache's memory back, until `wake`."""
        self._post("/sleep?level=1")

    def wake(self) -> None:
        """Undoes `sleep`."""
        self._post("/wake_up")

    def _post(self, path: str, body: Any = None) -> None:
        status, answer = self._call("POST", path, body)
        if status != 200:
            place, why = path.split("?")[0], first_line(_text(answer))
            raise LostServer(
                f"{self.url} didn't take new weights ({place}: status {status}, {why}), and "
                f"what it holds now is unknown; end it and {START_IT}, then go on with resume="
            )

    def _call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        try:
            with httpx.Client(**self._settings) as client:
                response = client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise self._lost("between two rollouts", _cause(error)) from error
        if response.status_code == 401:
            raise UserError(f"{self.url} asks for a key: export {KEY_VARIABLE}=<the key it was started with>")
        try:
            return response.status_code, response.json()
        except ValueError:
            return response.status_code, response.text

    def _lost(self, when: str, why: str) -> LostServer:
        return LostServer(
            f"the vLLM server at {self.url} was lost {when} ({why}); {START_IT}, then go on with resume="
        )


class PendingAnswers:
    """A server's answers to requests that are under way: either `wait` for them, or `cancel` the requests."""

    def __init__(self, server: VLLMServer, requests: Sequence[Mapping[str, Any]]) -> None:
        self.seconds = 0.0  # from the first request to the last answer
        self._block = contextlib.ExitStack()
        portal = self._block.enter_context(anyio.from_thread.start_blocking_portal())
        self._answers = portal.start_task_soon(self._ask, server, requests)

    async def _ask(self, server: VLLMServer, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        began = time.perf_counter()
        answers = await server._generate_all(requests)
        self.seconds = time.perf_counter() - began
        return answers

    def wait(self) -> list[dict[str, Any]]:
        """The answers, in the order of their requests. Raises what `VLLMServer.generate` raises."""
        try:
            return self._answers.result()
        finally:
            self.cancel()

    def cancel(self) -> None:
        """Ends the requests that are under way, and the thread."""
        self._answers.cancel()
        self._block.close()


def _cause(error: Exception) -> str:
    return first_line(error) or type(error).__name__


def _text(answer: Any) -> str:
    if isinstance(answer, Mapping):
        inner = answer.get("error", answer)
        return str(inner.get("message", inner)) if isinstance(inner, Mapping) else str(inner)
    return str(answer)


def _detail(response: httpx.Response) -> str:
    try:
        return first_line(_text(response.json()))
    except ValueError:
        return first_line(response.text)
