"""What servers send back: replies in any dialect, refusals, and errors in a reply's place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from openvlt.errors import UserError
from openvlt.serving.protocol import Endpoint, Reply, RetryableError

# why a reply ends, in the words of OpenAI, TGI, llama.cpp, Anthropic, Gemini and the proxies between them
CUT_OFF = ("length", "max_tokens", "max_output_tokens", "max_new_tokens", "model_length", "limit")
WITHHELD = (
    "content_filter",
    "safety",
    "recitation",
    "blocklist",
    "prohibited_content",
    "refusal",
    "sensitive",
)
BROKEN_OFF = ("error", "abort", "aborted", "cancelled", "canceled", "insufficient_system_resource")
TOOL_CALLS = ("tool_calls", "tool_use", "function_call")
FINISHED = ("stop", "stop_sequence", "stop_token", "eos", "eos_token", "end_turn", "completed", "complete")

_NO_MONEY = re.compile(
    r"insufficient[ _](\w+[ _])?(quota|balance|funds|credits?)|billing|payment required", re.I
)
_THOUGHT_MARK = re.compile(r"</?(think|thinking|thought|reasoning)>|\[/?THINK\]|◁/?think▷", re.I)
_EMPTY_THOUGHT = re.compile(r"\s*<think>\s*</think>\s*")
_STATUS = {"rate_limit_exceeded": 429, "rate_limit_error": 429, "overloaded_error": 529, "server_error": 500}


# --- refusals -----------------------------------------------------------------------------------------------


def explain_refusal(
    status: int, body: Any, endpoint: Endpoint, key: str, retry_after: str | None = None
) -> Reply:
    """What a status other than 200 means; `body` is the parsed JSON, or the text of a page.

    Raises RetryableError if it may pass, UserError if no request can succeed; else this request is refused,
    and a reply with `error` is returned. `key` is kept out of messages.
    """
    detail = _error_text(body).replace(key, "***") if key != "none" else _error_text(body)
    code = _error_code(body)
    no_money = _NO_MONEY.search(code) or (status == 403 and _NO_MONEY.search(detail))
    if status == 402 or (status in (403, 429) and no_money):
        raise UserError(
            f"{endpoint.url}: the account's quota is used up (status {status}: {detail}); "
            "what was answered is kept, resume later"
        )
    if status in (401, 403):
        raise UserError(
            f"{endpoint.url} refuses the key in {endpoint.key} ({detail}); export {endpoint.key}=<key>"
        )
    if status == 404:
        raise UserError(
            f"{endpoint.url} doesn't know model {endpoint.model!r} or this path ({detail}); "
            "correct url and model"
        )
    if status in (408, 409, 425, 429) or status >= 500:
        kind = "429" if status == 429 else "5xx" if status >= 500 else "4xx"
        raise RetryableError(kind, f"status {status}: {detail}", _parse_seconds(retry_after))
    return Reply("", finished=False, error=f"status {status}: {detail}")


def _error_text(body: Any) -> str:
    """The message in an error's body, on one line; of an HTML page its title or its words."""
    if isinstance(body, Mapping):
        found = [body[name] for name in ("error", "message", "detail", "msg", "errors") if body.get(name)]
        return _error_text(found[0]) if found else _shorten(json.dumps(body, ensure_ascii=False))
    if isinstance(body, list) and len(body) == 1:
        return _error_text(body[0])
    text = body if isinstance(body, str) else "" if body is None else json.dumps(body, ensure_ascii=False)
    if re.match(r"\s*<(!doctype|html|head|body)", text, re.I):
        title = re.search(r"<title[^>]*>\s*(\S.*?)</title>", text, re.I | re.S)
        words = re.sub(r"<(style|script).*?</\1>|<[^>]*>", " ", text, flags=re.I | re.S)
        text = title[1] if title else words
    return _shorten(text) or "no message"


def _shorten(text: str) -> str:
    return mend_surrogates(" ".join(text.split()))[:300]


def _error_code(body: Any) -> str:
    """The error's code and type as one text; "" without any."""
    inner = body.get("error", body) if isinstance(body, Mapping) else {}
    inner = inner if isinstance(inner, Mapping) else {}
    return " ".join(str(inner[name]) for name in ("code", "type", "status") if inner.get(name))


def _parse_seconds(header: str | None) -> float:
    """Retry-After in seconds; its other form, a date, counts as not given."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0


# --- replies ------------------------------------------------------------------------------------------------


def parse_reply(text: str, endpoint: Endpoint, key: str = "none", limit: int | None = None) -> Reply:
    """The reply in a response's body; reasoning that the server sent separately is put back as `<think>`.

    `limit` is the token limit of the request: it tells whether a reply without a reason for its end was cut
    off. Raises RetryableError for a body that isn't a reply, and as `explain_refusal` for an error in its
    place.
    """
    body = _parse_body(text)
    choices = body.get("choices") or [{}]
    if (failed := _error_inside(body, choices)) is not None:
        status = _status_in(failed)
        if status is None:
            raise RetryableError("malformed", f"an error in the reply's place: {_error_text(failed)}")
        return explain_refusal(status, failed, endpoint, key)
    try:
        usage = body.get("usage") or {}
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        message = choices[0].get("message") or {"content": choices[0]["text"]}
        content, thought = _message_texts(message)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        what = f"{type(error).__name__} {error}" if body.get("choices") else "it has no choices"
        raise RetryableError("malformed", f"{what} in {_shorten(text)[:80]!r}") from error
    reason = choices[0].get("finish_reason")
    ended = re.sub(r"^finish_?reason[._]", "", str(reason or "").strip().lower())
    if error := _why_no_answer(message, ended, content):
        return Reply("", finished=False, error=error)
    finished = ended in FINISHED or (ended not in CUT_OFF and not (limit and tokens[1] >= limit))
    cost = (tokens[0] * endpoint.input_price + tokens[1] * endpoint.output_price) / 1e6
    return Reply(mend_surrogates(_join_thought(thought, content)), finished, *tokens, cost)


def _error_inside(body: Mapping[str, Any], choices: Any) -> Mapping[str, Any] | None:
    """The object of a reply that holds an error, if one does: the whole without choices, or its choice."""
    if not body.get("choices"):
        names = ("error", "detail", "message", "msg", "errors")
        return body if any(body.get(name) for name in names) else None
    first = choices[0] if isinstance(choices, Sequence) else None
    return first if isinstance(first, Mapping) and first.get("error") else None


def _parse_body(text: str) -> Mapping[str, Any]:
    """The JSON object of a body. A stream that nobody asked for is put together."""
    if text.lstrip().startswith(("data:", "event:", ": ")):
        return _join_chunks(text)
    try:
        body = json.loads(text)
        if not isinstance(body, Mapping):
            raise TypeError(f"a {type(body).__name__} instead of an object")
    except (ValueError, TypeError) as error:
        what = _error_text(text) if text.lstrip().startswith("<") else f"{error} in {text[:80]!r}"
        raise RetryableError("malformed", f"no JSON: {what}") from error
    return body


def _join_chunks(text: str) -> Mapping[str, Any]:
    """The body that the chunks of a stream make together. Raises RetryableError where it breaks off."""
    message: dict[str, Any] = {"content": "", "reasoning_content": ""}
    whole: dict[str, Any] = {"choices": [{"message": message, "finish_reason": None}]}
    lines = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]
    try:
        for chunk in (json.loads(line) for line in lines if line != "[DONE]"):
            if chunk.get("error"):
                return chunk
            whole["usage"] = chunk.get("usage") or whole.get("usage")
            for choice in chunk.get("choices") or ():
                content, thought = _message_texts(choice.get("delta") or {})
                message["content"] += content
                message["reasoning_content"] += thought
                whole["choices"][0]["finish_reason"] = (
                    choice.get("finish_reason") or whole["choices"][0]["finish_reason"]
                )
    except (ValueError, TypeError, AttributeError) as error:
        raise RetryableError("malformed", f"a broken stream ({error}) in {text[-80:]!r}") from error
    if "[DONE]" not in lines and whole["choices"][0]["finish_reason"] is None:
        raise RetryableError("malformed", f"a stream without its end in {text[-80:]!r}")
    return whole


def _status_in(body: Mapping[str, Any]) -> int | None:
    """The status that an error in a reply's place stands for; None where it doesn't say."""
    inner = body["error"] if isinstance(body.get("error"), Mapping) else body
    for name in ("code", "status", "status_code", "type"):
        value = str(_STATUS.get(str(inner.get(name)), inner.get(name)))
        if re.fullmatch("[45][0-9][0-9]", value):
            return int(value)
    return 402 if _NO_MONEY.search(_error_code(body)) else None


def _message_texts(message: Mapping[str, Any]) -> tuple[str, str]:
    """The content and the reasoning of a message, of texts or of lists of parts."""
    content, thought = _part_texts(message.get("content"))
    for name in ("reasoning_content", "reasoning", "thinking", "reasoning_details"):
        if given := "".join(_part_texts(message.get(name))):
            return content, given
    return content, thought


def _part_texts(value: Any) -> tuple[str, str]:
    """The text and the reasoning in a text, a part, or a list of parts; of other parts nothing."""
    if value is None or isinstance(value, str):
        return value or "", ""
    if isinstance(value, Sequence):
        pairs = [_part_texts(part) for part in value]
        return "".join(text for text, _ in pairs), "".join(thought for _, thought in pairs)
    if not isinstance(value, Mapping):
        raise TypeError(f"content is {type(value).__name__}")
    texts = (value.get(name) for name in ("text", "content", "thinking", "reasoning", "summary"))
    text = "".join(_part_texts(next((one for one in texts if one), None)))
    is_thought = re.search("think|reason", str(value.get("type", "")))
    return ("", text) if is_thought else (text, "")


def _why_no_answer(message: Mapping[str, Any], ended: str, content: str) -> str | None:
    """Why there is no answer although the server replied; None if there is one.

    Raises RetryableError for a reply that the server broke off.
    """
    if ended in BROKEN_OFF:
        raise RetryableError("5xx", f"the server broke the reply off (finish reason {ended!r})")
    if ended in WITHHELD or (message.get("refusal") and not content):
        said = message.get("refusal") or f"finish reason {ended!r}"
        return f"the answer was withheld: {_shorten(str(said))}"
    if not content and (ended in TOOL_CALLS or message.get("tool_calls")):
        return "the model called a tool instead of answering"
    return None


def _join_thought(thought: str, content: str) -> str:
    """The content after its thought in `<think>`; a thought that is in the content too isn't repeated."""
    if not thought.strip():
        return content
    rest = _EMPTY_THOUGHT.sub("", content, count=1) if _EMPTY_THOUGHT.match(content) else content
    if _THOUGHT_MARK.search(rest):
        opened = rest.lstrip().startswith(("<think>", "[", "◁")) or "</think>" not in rest
        return rest if opened or "<think>" in rest else f"<think>{rest}"
    repeated = rest.lstrip().removeprefix(thought.strip())
    if len(thought.split()) > 1 and repeated.strip() and len(repeated) < len(rest.lstrip()):
        rest = repeated.lstrip()
    return f"<think>{thought}</think>{rest}"


def mend_surrogates(text: str) -> str:
    """The text with halves of a surrogate pair joined, and a half that stands alone replaced (U+FFFD)."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
