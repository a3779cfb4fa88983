"""Any OpenAI-compatible server (vLLM, SGLang, TGI, llama.cpp, `transformers serve`, hosted ones) as a source of text: many requests at
once, each until it is answered. Keys come from the environment and go nowhere else.
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
from openvlt.serving.protocol import Again, ChatRequest, Endpoint, Reply, Usage, explain_refusal, parse_reply
from openvlt.storage.ledger import Ledger

LONGEST_PAUSE_S = 60.0
_JITTER = random.Random()  # of its own: seeded runs draw from the module's


@dataclass(frozen=True)
class Server:
    """`concurrency` requests at once over all `endpoints`, each with `deadline_s` seconds per attempt and up to `attempts` of them.

    Retried with exponential back-off from `backoff_s` (or what Retry-After says): 429, 5xx, dropped connections, timeouts, malformed
    answers. Each attempt goes to the endpoint with the fewest requests under way; one that can't be reached rests meanwhile. `options`
    stand over those of every request (null takes one out: `{max_tokens: null, max_completion_tokens: 2048}`).
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
                "a server has no endpoints; give at least one: endpoints=[{url: 'http://localhost:8000/v1', model: <name>}]"
            )
        if self.concurrency < 1 or self.attempts < 1 or self.deadline_s <= 0 or self.backoff_s < 0:
            raise UserError(
                f"server: concurrency={self.concurrency} and attempts={self.attempts} must be at least 1, deadline_s={self.deadline_s} "
                f"above 0, backoff_s={self.backoff_s} at least 0"
            )

    @property
    def models(self) -> tuple[str, ...]:
        """The models that may answer, without where they run."""
        return tuple(sorted({endpoint.model for endpoint in self.endpoints}))

    def reachable(self) -> bool:
        """Whether one endpoint at least takes a connection; of those behind a proxy nothing is known, and they count."""
        for endpoint in self.endpoints:
            place = urllib.parse.urlsplit(endpoint.url)
            if urllib.request.getproxies() and not urllib.request.proxy_bypass(place.hostname):
                return True
            port = place.port or {"http": 80, "https": 443}[place.scheme]
            with contextlib.suppress(OSError), socket.create_connection((place.hostname, port), timeout=10):
                return True
        return False

    def stream(
        self, asks: Iterable[ChatRequest], usage: Usage | None = None
    ) -> Iterator[tuple[ChatRequest, Reply]]:
        """Every ask with its reply, as they come in: not in order. `asks` is read as there is room, so it may be endless.

        A request that no attempt answered, or that the server refuses for its content, comes back with `error`. Raises UserError for
        what no retry mends: no key or a wrong one, no such model, no server at all, or `concurrency` failures in a row. Leaving the
        iteration cancels what is under way.
        """
        usage, replies = Usage() if usage is None else usage, queue.SimpleQueue()
        calls, under_way, in_a_row = _Calls(self, usage, replies), 0, 0
        try:
            for ask in _then_none(asks):
                if ask is not None:
                    calls.begin(ask)
                    under_way += 1
                while under_way and (ask is None or under_way >= 2 * self.concurrency or not replies.empty()):
                    asked, reply = replies.get()
                    under_way -= 1
                    if isinstance(reply, Exception):
                        raise reply
                    usage.count(reply)
                    in_a_row = in_a_row + 1 if reply.error else 0
                    if in_a_row >= max(8, self.concurrency):
                        raise UserError(
                            f"{in_a_row} requests in a row failed, the last with {reply.error}; mend the server, then resume"
                        )
                    yield asked, reply
        finally:
            calls.close()

    def ask(
        self, asks: Sequence[ChatRequest], *, ledger: Ledger | None = None, usage: Usage | None = None
    ) -> list[Reply]:
        """Replies in the order of the asks; with a ledger, what it holds is not asked again and what comes in is filed in it.

        A reply with an error is given back but never filed. Equal asks are sent once.
        """
        known: dict[str, Reply] = {}
        waiting: dict[str, ChatRequest] = {}
        for ask in asks:
            key = ask.cache_key(self.models)
            row = ledger.get(key) if ledger is not None and key not in known else None
            if row is not None:
                known[key] = Reply(**row)
            elif key not in known:
                waiting[key] = ChatRequest(ask.messages, ask.options, key)
        for ask, reply in self.stream(waiting.values(), usage):
            known[ask.key] = reply
            if ledger is not None and not reply.error:
                ledger.append(ask.key, vars(reply))
        return [known[ask.cache_key(self.models)] for ask in asks]


def _then_none(asks: Iterable[ChatRequest]) -> Iterator[ChatRequest | None]:
    yield from asks
    yield None


class _Calls:
    """The requests under way: an event loop in a thread of its own."""

    def __init__(
        self, server: Server, usage: Usage, replies: queue.SimpleQueue[tuple[ChatRequest, Reply | Exception]]
    ) -> None:
        self.server, self.usage, self.replies = server, usage, replies
        self.loop = asyncio.new_event_loop()
        self.room = asyncio.Semaphore(server.concurrency)
        self.busy = [0] * len(server.endpoints)
        self.missed, self.rests_until = [0] * len(server.endpoints), [0.0] * len(server.endpoints)
        self.reached = False
        self.keys = [os.environ.get(endpoint.key) or "none" for endpoint in server.endpoints]
        self.thread = threading.Thread(target=self.loop.run_forever, name="requests", daemon=True)
        self.thread.start()
        self.clients = asyncio.run_coroutine_threadsafe(self._open(), self.loop).result()

    async def _open(self) -> list[Any]:
        openai = _openai()
        limits = {"timeout": None, "max_retries": 0}  # both are ours
        pairs = zip(self.server.endpoints, self.keys, strict=True)
        return [
            openai.AsyncOpenAI(
                base_url=e.url, api_key=key, http_client=openai.DefaultAioHttpClient(), **limits
            )
            for e, key in pairs
        ]

    def begin(self, ask: ChatRequest) -> None:
        asyncio.run_coroutine_threadsafe(self._call(ask), self.loop)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _stop(self) -> None:
        mine = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in mine:
            task.cancel()
        await asyncio.gather(*mine, return_exceptions=True)
        for client in self.clients:
            await client.close()

    async def _call(self, ask: ChatRequest) -> None:
        try:
            async with self.room:
                reply: Reply | Exception = await self._until_answered(ask)
        except Exception as error:  # it is raised where the replies are read
            reply = error
        self.replies.put((ask, reply))

    async def _until_answered(self, ask: ChatRequest) -> Reply:
        for attempt in range(self.server.attempts):
            place = min(
                range(len(self.busy)),
                key=lambda place: (self.rests_until[place] > self.loop.time(), self.busy[place]),
            )
            self.busy[place] += 1
            try:
                return await self._attempt(ask, place)
            except Again as fault:
                last = fault
                self._rest(place, fault.kind)
            finally:
                self.busy[place] -= 1
            if last.kind == "unreachable" and not self.reached and attempt == 1:
                raise UserError(
                    f"no server answers at {self.server.endpoints[place].url} ({last}); start it, or correct the url"
                )
            if attempt + 1 < self.server.attempts:
                self.usage.retries[last.kind] += 1
                pause = min(self.server.backoff_s * 2**attempt, LONGEST_PAUSE_S) * _JITTER.uniform(0.5, 1.0)
                await asyncio.sleep(max(pause, min(last.wait_s, LONGEST_PAUSE_S)))
        return Reply("", finished=False, error=f"{last} ({self.server.attempts} attempts)")

    def _rest(self, place: int, kind: str) -> None:
        """An endpoint that can't be reached fails at once and would draw every request: it is left alone for a while."""
        self.missed[place] = self.missed[place] + 1 if kind == "unreachable" else 0
        pause = min(self.server.backoff_s * 2 ** self.missed[place], LONGEST_PAUSE_S)
        self.rests_until[place] = self.loop.time() + pause if self.missed[place] else 0.0

    async def _attempt(self, ask: ChatRequest, place: int) -> Reply:
        openai, endpoint = _openai(), self.server.endpoints[place]
        options = {
            name: value for name, value in {**ask.options, **self.server.options}.items() if value is not None
        }
        body = {"model": endpoint.model, "messages": ask.messages, **options}
        try:
            async with asyncio.timeout(self.server.deadline_s):
                text = await self.clients[place].post("/chat/completions", cast_to=str, body=body)
        except TimeoutError:
            raise Again("timeout", f"no answer within {self.server.deadline_s:g} s") from None
        except (
            openai.APIConnectionError
        ) as error:  # its APITimeoutError too: over aiohttp a dropped connection has that name
            causes = list(_causes(error))
            unreachable = any(
                type(cause).__name__ in ("ClientConnectorError", "ClientConnectorDNSError")
                for cause in causes
            )
            raise Again("unreachable" if unreachable else "connection", str(causes[-1])) from error
        except openai.APIStatusError as error:
            self.reached = True
            return explain_refusal(error, endpoint, self.keys[place])
        self.reached = True
        return parse_reply(text, endpoint)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it came from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _openai() -> Any:
    try:
        import openai
    except ImportError:
        raise UserError(
            "talking to a server needs the package openai; run: pip install 'openai[aiohttp]'"
        ) from None
    return openai
