"""The chat-completions protocol for one request: endpoint, request, reply, and the kinds of failure."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openvlt.errors import UserError
from openvlt.storage.ledger import content_key


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

    `retries` are counted by cause: 429, 5xx, 4xx, connection, unreachable, timeout, malformed.
    """

    requests: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    retries: Counter[str] = field(default_factory=Counter)

    def count(self, reply: Reply) -> None:
        """Adds one reply."""
        self.requests += 1
        self.failed += bool(reply.error)
        self.input_tokens += reply.input_tokens
        self.output_tokens += reply.output_tokens
        self.cost += reply.cost


class RetryableError(Exception):
    """A failure that may pass: its kind, and how long the server asks to wait."""

    def __init__(self, kind: str, detail: str, wait_s: float = 0.0) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.wait_s = kind, wait_s


def explain_refusal(error: Any, endpoint: Endpoint, key: str) -> Reply:
    """What a status other than 200 means.

    Raises RetryableError if it may pass, UserError if no request can succeed; else this request is refused,
    and a reply with `error` is returned. `key` is kept out of messages.
    """
    detail = " ".join(str(error).replace(key, "***").split())[:300]
    if error.status_code in (401, 403):
        raise UserError(
            f"{endpoint.url} refuses the key in {endpoint.key} ({detail}); export {endpoint.key}=<key>"
        )
    if error.status_code == 404:
        raise UserError(
            f"{endpoint.url} doesn't know model {endpoint.model!r} or this path ({detail}); "
            "correct url and model"
        )
    if error.status_code == 429 and getattr(error, "code", None) == "insufficient_quota":
        raise UserError(
            f"{endpoint.url}: the account's quota is used up ({detail}); "
            "what was answered is kept, resume later"
        )
    if error.status_code in (408, 409, 429) or error.status_code >= 500:
        kind = "429" if error.status_code == 429 else "5xx" if error.status_code >= 500 else "4xx"
        raise RetryableError(kind, detail, _parse_seconds(error.response.headers.get("retry-after")))
    return Reply("", finished=False, error=f"status {error.status_code}: {detail}")


def _parse_seconds(header: str | None) -> float:
    """Retry-After in seconds; its other form, a date, counts as not given."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0


def parse_reply(text: str, endpoint: Endpoint) -> Reply:
    """The reply in a response's body; reasoning that the server sent separately is put back as `<think>`.

    Raises RetryableError for a body that isn't one.
    """
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        content = message.get("content") or ""
        thought = message.get("reasoning_content") or message.get("reasoning") or ""
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        finished = choice.get("finish_reason") == "stop"
        if not isinstance(content, str) or not isinstance(thought, str):
            raise TypeError(f"content is {type(content).__name__}")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise RetryableError("malformed", f"{type(error).__name__} {error} in {text[:80]!r}") from error
    cost = (tokens[0] * endpoint.input_price + tokens[1] * endpoint.output_price) / 1e6
    return Reply(f"<think>{thought}</think>{content}" if thought else content, finished, *tokens, cost)
