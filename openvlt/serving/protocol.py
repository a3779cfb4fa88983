"""The chat-completions protocol: endpoint, request, reply, and what a stream of requests took."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openvlt.errors import UserError
from openvlt.storage.ledger import content_key

_NUMBER = re.compile(r"[\w-]*\d[\w-]*")  # a request's own id, too


@dataclass(frozen=True)
class Endpoint:
    """One server: `url` up to and with `/v1`, and the `model` that it serves.

    `key` is the environment variable that holds its key; a missing variable means no key, which local servers
    don't ask for. Prices are in your currency per million tokens.
    """

    url: str
    model: str
    key: str = "OPENAI_API_KEY"
    input_price: float = 0.0
    output_price: float = 0.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[^/@\s]+(/\S*)?", self.url):
            raise UserError(
                "an endpoint's url isn't of the form http://host:port/v1, without user name or password; "
                "correct it"
            )
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key):  # the value isn't shown: it may be a key
            raise UserError(
                "an endpoint's `key` is the name of an environment variable, never the key itself; "
                "export it and name it"
            )


def replicas(
    urls: str | Sequence[str],
    model: str,
    key: str = "OPENAI_API_KEY",
    input_price: float = 0.0,
    output_price: float = 0.0,
) -> list[Endpoint]:
    """Endpoints that all serve one model; `urls` may be a single one."""
    urls = [urls] if isinstance(urls, str) else urls
    return [Endpoint(url, model, key, input_price, output_price) for url in urls]


@dataclass(frozen=True)
class ChatRequest:
    """One request: `messages` in the protocol's form, and its `options` (temperature, max_tokens, seed, ...).

    `key` is the reply's key in a ledger; left empty it is made from the content.
    """

    messages: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""

    def cache_key(self, models: Sequence[str]) -> str:
        """`key`, or without one a key of the content and of the models that may reply."""
        return self.key or content_key("ask", sorted(models), list(self.messages), dict(self.options))


@dataclass(frozen=True)
class Reply:
    """A server's reply. `finished` is false if the token limit cut it; `error` is why there is no text."""

    text: str
    finished: bool = True
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    error: str = ""


@dataclass
class Usage:
    """What a stream of requests took so far.

    `retries` are counted by cause: 429, 5xx, 4xx, connection, unreachable, timeout, malformed. `failures` are
    the errors of requests without an answer, those that differ in numbers only counted together.
    """

    requests: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    retries: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    _kinds: dict[str, str] = field(default_factory=dict, repr=False)

    def count(self, reply: Reply) -> None:
        """Adds one reply."""
        self.requests += 1
        if reply.error:
            self.failed += 1
            self.failures[self._kinds.setdefault(_NUMBER.sub("#", reply.error), reply.error)] += 1
        self.input_tokens += reply.input_tokens
        self.output_tokens += reply.output_tokens
        self.cost += reply.cost


def describe_failures(failures: Mapping[str, int]) -> str:
    """The commonest causes of failed requests with their counts, in words."""
    ranked = sorted(failures.items(), key=lambda pair: -pair[1])
    causes = [f"{count} with {error}" if len(ranked) > 1 else error for error, count in ranked[:3]]
    more = sum(count for _, count in ranked[3:])
    return "; ".join(causes) + (f"; {more} with others" if more else "")


class RetryableError(Exception):
    """A failure that may pass: its kind, and how long the server asks to wait."""

    def __init__(self, kind: str, detail: str, wait_s: float = 0.0) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.wait_s = kind, wait_s
