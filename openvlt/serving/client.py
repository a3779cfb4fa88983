"""A client for OpenAI-compatible servers: vLLM, SGLang, TGI, llama.cpp, `transformers serve`, hosted ones.

Many requests are under way at once, each until it is answered. Keys come from the environment and go nowhere
else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import random
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openvlt.errors import UserError
from openvlt.serving.protocol import (
    ChatRequest,
    Endpoint,
    Reply,
    RetryableError,
    Usage,
    describe_failures,
)
from openvlt.serving.replies import explain_refusal, parse_reply
from openvlt.storage.ledger import Ledger

LONGEST_PAUSE_S = 60.0
_JITTER = random.Random()  # of its own: seeded runs draw from the module's


@dataclass(frozen=True)
class Server:
    """One or several endpoints that are asked alike.

    `concurrency` requests are under way at once over all `endpoints`, each with up to `attempts` attempts of
    `deadline_s` seconds. Retried with exponential back-off from `backoff_s`, or after what Retry-After says:
    429, 5xx, dropped connections, timeouts, malformed replies. Each attempt goes to the endpoint with the
    fewest requests under way; one that can't be reached rests meanwhile. `options` stand over those of every
    request (null takes one out: `{max_tokens: null, max_completion_tokens: 2048}`).
    """

    endpoints: Sequence[Endpoint]
    concurrency: int = 64
    deadline_s: float = 600.0
    attempts: int = 8
    backoff_s: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise UserError(
                "a server has no endpoints; give at least one: "
                "endpoints=[{url: 'http://localhost:8000/v1', model: <name>}]"
            )
        if self.concurrency < 1 or self.attempts < 1 or self.deadline_s <= 0 or self.backoff_s < 0:
            raise UserError(
                f"server: concurrency={self.concurrency} and attempts={self.attempts} must be at least 1, "
                f"deadline_s={self.deadline_s} above 0, backoff_s={self.backoff_s} at least 0"
            )

    @property
    def models(self) -> tuple[str, ...]:
        """The models that may reply, without where they run."""
        return tuple(sorted({endpoint.model for endpoint in self.endpoints}))

    def reachable(self) -> bool:
        """Whether at least one endpoint takes a connection; one behind a proxy can't be tried and counts."""
        for endpoint in self.endpoints:
            url = urllib.parse.urlsplit(endpoint.url)
            if urllib.request.getproxies() and not urllib.request.proxy_bypass(url.hostname or ""):
                return True
            port = url.port or {"http": 80, "https": 443}[url.scheme]
            with contextlib.suppress(OSError), socket.create_connection((url.hostname, port), timeout=10):
                return True
        return False

    def stream(
        self, requests: Iterable[ChatRequest], usage: Usage | None = None
    ) -> Iterator[tuple[ChatRequest, Reply]]:
        """Yields every request with its reply, as they come in: not in order.

        `requests` is read as there is room, so it may be endless. A request that no attempt answered, or that
        the server refuses for its content, comes back with `error`. Raises UserError for what no retry mends:
        no key or a wrong one, no such model, no server at all, or `concurrency` failures in a row. Leaving
        the iteration cancels what is under way.
        """
        usage = Usage() if usage is None else usage
        replies: queue.SimpleQueue[tuple[ChatRequest, Reply | Exception]] = queue.SimpleQueue()
        loop, under_way, failures = _RequestLoop(self, usage, replies), 0, 0
        try:
            for request in _with_end(requests):
                if request is not None:
                    loop.send(request)
                    under_way += 1
                full = 2 * self.concurrency
                while under_way and (request is None or under_way >= full or not replies.empty()):
                    answered, reply = replies.get()
                    under_way -= 1
                    if isinstance(reply, Exception):
                        raise reply
                    usage.count(reply)
                    failures = failures + 1 if reply.error else 0
                    if failures >= max(8, self.concurrency):
                        raise UserError(
                            f"{failures} requests in a row failed: {describe_failures(usage.failures)}; "
                            "mend the server, then resume"
                        )
                    yield answered, reply
        finally:
            loop.close()

    def ask(
        self,
        requests: Sequence[ChatRequest],
        *,
        ledger: Ledger | None = None,
        usage: Usage | None = None,
    ) -> list[Reply]:
        """The replies in the order of the requests; equal requests are sent once.

        With a ledger, what it holds isn't sent again, and what comes in is added to it. A reply with an error
        is returned but never added.
        """
        replies: dict[str, Reply] = {}
        unanswered: dict[str, ChatRequest] = {}
        for request in requests:
            key = request.cache_key(self.models)
            row = ledger.get(key) if ledger is not None and key not in replies else None
            if row is not None:
                replies[key] = Reply(**row)
            elif key not in replies:
                unanswered[key] = ChatRequest(request.messages, request.options, key)
        for request, reply in self.stream(unanswered.values(), usage):
            replies[request.key] = reply
            if ledger is not None and not reply.error:
                ledger.append(request.key, vars(reply))
        return [replies[request.cache_key(self.models)] for request in requests]


def _with_end(requests: Iterable[ChatRequest]) -> Iterator[ChatRequest | None]:
    """The requests, and None after the last."""
    yield from requests
    yield None


class _RequestLoop:
    """An event loop in a thread of its own, which sends requests until each is answered."""

    def __init__(
        self, server: Server, usage: Usage, replies: queue.SimpleQueue[tuple[ChatRequest, Reply | Exception]]
    ) -> None:
        self.server, self.usage, self.replies = server, usage, replies
        self.loop = asyncio.new_event_loop()
        self.room = asyncio.Semaphore(server.concurrency)
        # of each endpoint: requests under way, misses in a row, when it may be tried again
        self.under_way = [0] * len(server.endpoints)
        self.missed, self.rests_until = [0] * len(server.endpoints), [0.0] * len(server.endpoints)
        self.reached = False
        self.keys = [os.environ.get(endpoint.key) or "none" for endpoint in server.endpoints]
        self.thread = threading.Thread(target=self.loop.run_forever, name="requests", daemon=True)
        self.thread.start()
        self.clients = asyncio.run_coroutine_threadsafe(self._open_clients(), self.loop).result()

    async def _open_clients(self) -> list[Any]:
        openai = _import_openai()
        limits = {"timeout": None, "max_retries": 0}  # both are ours
        pairs = zip(self.server.endpoints, self.keys, strict=True)
        return [
            openai.AsyncOpenAI(
                base_url=e.url, api_key=key, http_client=openai.DefaultAioHttpClient(), **limits
            )
            for e, key in pairs
        ]

    def send(self, request: ChatRequest) -> None:
        """Begins a request; its reply, or the exception that ends the stream, is put into `replies`."""
        asyncio.run_coroutine_threadsafe(self._put_reply(request), self.loop)

    def close(self) -> None:
        """Cancels what is under way and ends the thread."""
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _stop(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for client in self.clients:
            await client.close()

    async def _put_reply(self, request: ChatRequest) -> None:
        try:
            async with self.room:
                reply: Reply | Exception = await self._attempt_until_answered(request)
        except Exception as error:  # it is raised where the replies are read
            reply = error
        self.replies.put((request, reply))

    async def _attempt_until_answered(self, request: ChatRequest) -> Reply:
        fault = None
        for attempt in range(self.server.attempts):
            number = self._next_endpoint()
            self.under_way[number] += 1
            try:
                return await self._attempt(request, number)
            except RetryableError as error:
                fault = error
                self._rest(number, fault.kind)
            finally:
                self.under_way[number] -= 1
            if fault.kind == "unreachable" and not self.reached and attempt == 1:
                url = self.server.endpoints[number].url
                raise UserError(f"no server answers at {url} ({fault}); start it, or correct the url")
            if attempt + 1 < self.server.attempts:
                self.usage.retries[fault.kind] += 1
                pause = min(self.server.backoff_s * 2**attempt, LONGEST_PAUSE_S) * _JITTER.uniform(0.5, 1.0)
                await asyncio.sleep(max(pause, min(fault.wait_s, LONGEST_PAUSE_S)))
        return Reply("", finished=False, error=f"{fault} ({self.server.attempts} attempts)")

    def _next_endpoint(self) -> int:
        """The number of the endpoint with the fewest requests under way, of those that don't rest."""
        now = self.loop.time()
        return min(
            range(len(self.under_way)),
            key=lambda number: (self.rests_until[number] > now, self.under_way[number]),
        )

    def _rest(self, number: int, kind: str) -> None:
        """Lets an endpoint rest that can't be reached: it fails at once and would draw every request."""
        self.missed[number] = self.missed[number] + 1 if kind == "unreachable" else 0
        pause = min(self.server.backoff_s * 2 ** self.missed[number], LONGEST_PAUSE_S)
        self.rests_until[number] = self.loop.time() + pause if self.missed[number] else 0.0

    async def _attempt(self, request: ChatRequest, number: int) -> Reply:
        openai, endpoint = _import_openai(), self.server.endpoints[number]
        options = {**request.options, **self.server.options}
        options = {name: value for name, value in options.items() if value is not None}
        body = {"model": endpoint.model, "messages": request.messages, **options}
        try:
            async with asyncio.timeout(self.server.deadline_s):
                text = await self.clients[number].post("/chat/completions", cast_to=str, body=body)
        except TimeoutError:
            raise RetryableError("timeout", f"no answer within {self.server.deadline_s:g} s") from None
        except openai.APIConnectionError as error:
            # its APITimeoutError too: over aiohttp a dropped connection has that name
            causes = list(_causes(error))
            names = {type(cause).__name__ for cause in causes}
            unreachable = not names.isdisjoint(("ClientConnectorError", "ClientConnectorDNSError"))
            raise RetryableError("unreachable" if unreachable else "connection", str(causes[-1])) from error
        except openai.APIStatusError as error:
            self.reached = True
            # the client's own `body` is what stands under "error", or the text of a page
            wait = error.response.headers.get("retry-after")
            return explain_refusal(error.status_code, error.body, endpoint, self.keys[number], wait)
        self.reached = True
        limit = options.get("max_tokens") or options.get("max_completion_tokens")
        return parse_reply(text, endpoint, self.keys[number], limit)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it came from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _import_openai() -> Any:
    try:
        import openai
    except ImportError:
        raise UserError(
            "talking to a server needs the package openai; run: pip install 'openai[aiohttp]'"
        ) from None
    return openai
