"""The chat-completions protocol, one request at a time: what is asked, what comes back, and what each way of failing means."""

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
    """One server: `url` up to and with `/v1`, the `model` it serves, the environment variable that holds its `key`, and its prices in
    your currency per million tokens. A missing variable means no key, which local servers don't ask for.
    """

    url: str
    model: str
    key: str = "OPENAI_API_KEY"
    input_price: float = 0.0
    output_price: float = 0.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[^/@\s]+(/\S*)?", self.url):
            raise UserError(
                "an endpoint's url isn't of the form http://host:port/v1, without user name or password; correct it"
            )
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key):  # the value isn't shown: it may be a key
            raise UserError(
                "an endpoint's `key` is the name of an environment variable, never the key itself; export it and name it"
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
    """One request: `messages` as the protocol wants them, `options` of this request (temperature, max_tokens, seed, ...).

    `key` says under which name the answer is filed; left empty it is made from the content.
    """

    messages: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""

    def cache_key(self, models: Sequence[str]) -> str:
        """The key; without one of its own, the content's with the models that may answer."""
        return self.key or content_key("ask", sorted(models), list(self.messages), dict(self.options))


@dataclass(frozen=True)
class Reply:
    """What came back. `finished` is false when the token limit cut it; `error` is why there is no text, after all attempts."""

    text: str
    finished: bool = True
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    error: str = ""


@dataclass
class Usage:
    """What a stream of requests took so far; `retries` by cause: 429, 5xx, 4xx, connection, unreachable, timeout, malformed."""

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


class Again(Exception):
    """A fault that may pass: its kind, and how long the server asks to wait."""

    def __init__(self, kind: str, detail: str, wait_s: float = 0.0) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.wait_s = kind, wait_s


def explain_refusal(error: Any, endpoint: Endpoint, key: str) -> Reply:
    """A status that isn't 200: worth another attempt, a refusal of this request, or a fault of the whole configuration."""
    said = " ".join(str(error).replace(key, "***").split())[:300]
    if error.status_code in (401, 403):
        raise UserError(
            f"{endpoint.url} refuses the key in {endpoint.key} ({said}); export {endpoint.key}=<key>"
        )
    if error.status_code == 404:
        raise UserError(
            f"{endpoint.url} doesn't know model {endpoint.model!r} or this path ({said}); correct url and model"
        )
    if error.status_code == 429 and getattr(error, "code", None) == "insufficient_quota":
        raise UserError(
            f"{endpoint.url}: the account's quota is used up ({said}); what was answered is kept, resume later"
        )
    if error.status_code in (408, 409, 429) or error.status_code >= 500:
        kind = "429" if error.status_code == 429 else "5xx" if error.status_code >= 500 else "4xx"
        raise Again(kind, said, _seconds(error.response.headers.get("retry-after")))
    return Reply("", finished=False, error=f"status {error.status_code}: {said}")


def _seconds(header: str | None) -> float:
    """Retry-After in seconds; its other form, a date, counts as not given."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0


def parse_reply(text: str, endpoint: Endpoint) -> Reply:
    """The reply in a response's body; a body that isn't one is worth another attempt. A server's separate reasoning is put back."""
    try:
        body = json.loads(text)
        choice = body["choices"][0]
        message, usage = choice["message"], body.get("usage") or {}
        said = message.get("content") or ""
        thought = message.get("reasoning_content") or message.get("reasoning") or ""
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        finished = choice.get("finish_reason") == "stop"
        if not isinstance(said, str) or not isinstance(thought, str):
            raise TypeError(f"content is {type(said).__name__}")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Again("malformed", f"{type(error).__name__} {error} in {text[:80]!r}") from error
    cost = (tokens[0] * endpoint.input_price + tokens[1] * endpoint.output_price) / 1e6
    return Reply(f"<think>{thought}</think>{said}" if thought else said, finished, *tokens, cost)
