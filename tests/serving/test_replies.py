"""What servers send back, in the dialects of those that are in use: hand-written bodies and what is read in them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openvlt.errors import UserError
from openvlt.serving.protocol import Endpoint, Reply, RetryableError, Usage, describe_failures
from openvlt.serving.replies import explain_refusal, mend_surrogates, parse_reply

ENDPOINT = Endpoint("http://host/v1", "m", key="MY_KEY")
SAID = "<think>So it is.</think><answer>5</answer>"


def read(
    content: Any = "5", finish: Any = "stop", limit: int | None = None, tokens: int = 5, **message
) -> Reply:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}
    body = {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": tokens}}
    return parse_reply(json.dumps(body), ENDPOINT, limit=limit)


@pytest.mark.parametrize(
    "reason, finished",
    [
        *(
            (word, True)
            for word in ("stop", "STOP", "eos_token", "stop_sequence", "end_turn", "eos", "completed")
        ),
        *(
            (word, True)
            for word in ("tool_calls", "FinishReason.STOP", "FINISH_REASON_STOP", "something new")
        ),
        *(
            (word, False)
            for word in ("length", "LENGTH", "max_tokens", "MAX_TOKENS", "max_output_tokens", "limit")
        ),
        (None, True),
        ("", True),
    ],
)
def test_why_a_reply_ended(reason: str | None, finished: bool) -> None:
    reply = read(finish=reason, limit=64)
    assert (reply.text, reply.finished, reply.error) == ("5", finished, "")


@pytest.mark.parametrize(
    "reason, finished", [(None, False), ("", False), ("something new", False), ("stop", True)]
)
def test_without_a_reason_a_reply_at_the_token_limit_was_cut_off(reason: str | None, finished: bool) -> None:
    assert read(finish=reason, limit=64, tokens=64).finished is finished


@pytest.mark.parametrize(
    "reason, message, said",
    [
        ("content_filter", {"content": "half of"}, "the answer was withheld: finish reason 'content_filter'"),
        ("SAFETY", {"content": None}, "the answer was withheld: finish reason 'safety'"),
        ("stop", {"content": None, "refusal": "I can't help."}, "the answer was withheld: I can't help."),
        ("tool_calls", {"content": None}, "the model called a tool instead of answering"),
        (
            "stop",
            {"content": "", "tool_calls": [{"id": "1"}]},
            "the model called a tool instead of answering",
        ),
    ],
)
def test_a_reply_that_is_no_answer(reason: str, message: dict[str, Any], said: str) -> None:
    reply = read(finish=reason, **message)
    assert (reply.text, reply.error) == ("", said)


@pytest.mark.parametrize("reason", ["abort", "error", "insufficient_system_resource"])
def test_a_reply_that_the_server_broke_off_is_asked_again(reason: str) -> None:
    with pytest.raises(
        RetryableError, match=f"the server broke the reply off \\(finish reason '{reason}'\\)"
    ):
        read("half of", reason)


@pytest.mark.parametrize(
    "content, text",
    [
        ([{"type": "text", "text": SAID}], SAID),
        ([{"type": "text", "text": "4"}, {"type": "output_text", "text": "2"}], "42"),
        (["4", "2"], "42"),
        ({"type": "text", "text": "5"}, "5"),
        ([{"type": "thinking", "thinking": "So."}, {"type": "text", "text": "5"}], "<think>So.</think>5"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "So."}]}, "5"], "<think>So.</think>5"),
        (
            [{"type": "reasoning", "summary": [{"text": "So."}]}, {"type": "text", "text": "5"}],
            "<think>So.</think>5",
        ),
        ([{"type": "text", "text": "5"}, {"type": "image_url", "image_url": {"url": "x"}}], "5"),
        ([], ""),
        (None, ""),
    ],
)
def test_parts_are_joined(content: Any, text: str) -> None:
    assert read(content).text == text


@pytest.mark.parametrize(
    "content, message, text",
    [
        ("<answer>5</answer>", {"reasoning_content": "So it is."}, SAID),
        ("<answer>5</answer>", {"reasoning": "So it is."}, SAID),
        ("<answer>5</answer>", {"thinking": "So it is."}, SAID),
        ("<answer>5</answer>", {"reasoning": "So it is.", "reasoning_content": "So it is."}, SAID),
        (
            "<answer>5</answer>",
            {"reasoning_details": [{"type": "reasoning.text", "text": "So it is."}]},
            SAID,
        ),
        (SAID, {"reasoning": "So it is."}, SAID),
        (SAID, {"reasoning_content": "So it is.\n"}, SAID),
        (f"\n{SAID}", {"reasoning_content": "So it is."}, f"\n{SAID}"),
        ("So it is.</think><answer>5</answer>", {"reasoning_content": "So it is."}, SAID),
        ("<think>\n\n</think>\n\n<answer>5</answer>", {"reasoning_content": "So it is."}, SAID),
        ("So it is.\n<answer>5</answer>", {"reasoning_content": "So it is."}, SAID),
        ("[THINK]So.[/THINK]5", {"reasoning": "So."}, "[THINK]So.[/THINK]5"),
        ("◁think▷So.◁/think▷5", {"reasoning": "So."}, "◁think▷So.◁/think▷5"),
        ("5", {"reasoning_content": "5"}, "<think>5</think>5"),
        ("5", {"reasoning_content": " "}, "5"),
        ("5", {"reasoning": None}, "5"),
    ],
)
def test_a_thought_is_there_once(content: str, message: dict[str, Any], text: str) -> None:
    assert read(content, **message).text == text


@pytest.mark.parametrize(
    "text, mended",
    [
        ("\ud83d\ude00", "😀"),
        ("half \ud83d", "half \ufffd"),
        ("\ude00 half", "\ufffd half"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("good 😀 ‰ é", "good 😀 ‰ é"),
    ],
)
def test_half_emojis(text: str, mended: str) -> None:
    assert mend_surrogates(text) == mended
    assert read(text).text == mended
    assert read([{"type": "text", "text": one} for one in text]).text == mended  # split over parts
    read(text).text.encode()


def test_a_stream_that_nobody_asked_for_is_put_together() -> None:
    deltas = [{"role": "assistant"}, {"reasoning_content": "So it is."}, {"content": "<answer>5 \ud83d"}]
    chunks: list[Any] = [{"choices": [{"delta": delta}]} for delta in deltas]
    chunks += [{"choices": [{"delta": {"content": "\ude00</answer>"}, "finish_reason": "stop"}]}]
    chunks += [{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}]
    lines = [f"data: {json.dumps(chunk)}" for chunk in chunks]
    reply = parse_reply("\n\n".join([": ping", *lines, "data: [DONE]\n"]), ENDPOINT)
    assert reply == Reply("<think>So it is.</think><answer>5 😀</answer>", True, 3, 4)
    for broken in ("\n\n".join(lines[:3]), lines[0][:-4], "data: 5"):
        with pytest.raises(RetryableError, match="stream"):
            parse_reply(broken, ENDPOINT)


@pytest.mark.parametrize(
    "body, said",
    [
        ({"error": {"message": "upstream overloaded", "code": 502}}, "5xx: status 502: upstream overloaded"),
        ({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, "429: status 429: slow down"),
        (
            {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}},
            "5xx: status 529: busy",
        ),
        ({"object": "error", "message": "engine is dead", "code": 500}, "5xx: status 500: engine is dead"),
        ({"error": "CUDA out of memory"}, "malformed: an error in the reply's place: CUDA out of memory"),
        ({"detail": "worker died"}, "malformed: an error in the reply's place: worker died"),
        (
            {"choices": [], "error": {"message": "no worker"}},
            "malformed: an error in the reply's place: no worker",
        ),
        (
            {"choices": [{"error": {"code": 503, "message": "gone"}, "finish_reason": "error"}]},
            "status 503: gone",
        ),
        ({"choices": []}, "malformed: it has no choices"),
        ({"choices": None, "id": "1"}, "malformed: it has no choices"),
        ({}, "malformed: it has no choices"),
        ({"choices": [{"message": {"content": 5}}]}, "malformed: TypeError content is int"),
        ({"choices": [5]}, "malformed: AttributeError"),
        ([], "malformed: no JSON: a list instead of an object"),
        ("<html><title>502 Bad\nGateway</title><p>nginx</p></html>", "malformed: no JSON: 502 Bad Gateway"),
        ("<!DOCTYPE html><body><style>p {}</style><p>Please log in</p>", "malformed: no JSON: Please log in"),
        ("", "malformed: no JSON: "),
    ],
)
def test_an_error_in_a_replys_place_is_tried_again(body: Any, said: str) -> None:
    with pytest.raises(RetryableError) as caught:
        parse_reply(body if isinstance(body, str) else json.dumps(body), ENDPOINT)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "status, body, said",
    [
        (402, {"message": "Insufficient Balance"}, "quota is used up (status 402: Insufficient Balance)"),
        (402, "", "quota is used up (status 402: no message)"),
        (429, {"code": "insufficient_quota", "message": "You exceeded"}, "(status 429: You exceeded)"),
        (
            429,
            {"error": {"type": "insufficient_quota", "message": "plan"}},
            "quota is used up (status 429: plan)",
        ),
        (403, {"error": {"code": "insufficient_user_quota", "message": "0 left"}}, "quota is used up"),
        (403, "Insufficient balance", "quota is used up (status 403: Insufficient balance)"),
        (401, {"message": "bad key sk-1"}, "refuses the key in MY_KEY (bad key ***); export MY_KEY=<key>"),
        (404, "<html><title>Not Found</title></html>", "doesn't know model 'm' or this path (Not Found)"),
    ],
)
def test_what_no_request_mends_stops_at_once(status: int, body: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        explain_refusal(status, body, ENDPOINT, "sk-1")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "body", [{"error": {"code": 402, "message": "no money"}}, {"error": {"code": "billing_hard_limit"}}]
)
def test_an_empty_account_told_with_status_200(body: Any) -> None:
    with pytest.raises(UserError, match="quota is used up .status 402"):
        parse_reply(json.dumps(body), ENDPOINT)


def test_a_request_that_is_refused_says_why_and_a_rate_limit_is_waited_for() -> None:
    context = {"message": "This model's maximum context length is 4096 tokens", "code": 400}
    said = "status 400: This model's maximum context length is 4096 tokens"
    assert explain_refusal(400, context, ENDPOINT, "none").error == said
    assert parse_reply(json.dumps({"error": context}), ENDPOINT).error == said
    assert (
        explain_refusal(422, {"detail": [{"msg": "bad image"}]}, ENDPOINT, "none").error
        == "status 422: bad image"
    )
    assert explain_refusal(413, "none of it", ENDPOINT, "none").error == "status 413: none of it"
    with pytest.raises(RetryableError) as caught:
        explain_refusal(
            429, {"message": "You exceeded your current quota, retry in 3 s"}, ENDPOINT, "none", "3"
        )
    assert (caught.value.kind, caught.value.wait_s) == ("429", 3.0)
    with pytest.raises(RetryableError, match="5xx: status 503: no message"):
        explain_refusal(503, None, ENDPOINT, "none", "Wed, 21 Oct 2026 07:28:00 GMT")


def test_failures_are_counted_by_cause() -> None:
    usage = Usage()
    for number in range(12):
        usage.count(Reply("", error=f"status 400: {4100 + number} tokens in request req-{number}a"))
    assert (
        usage.failed == 12
        and describe_failures(usage.failures) == "status 400: 4100 tokens in request req-0a"
    )
    for cause in ("timeout", "timeout", "withheld", "tools", "tools", "tools"):
        usage.count(Reply("", error=cause))
    usage.count(Reply("5"))
    assert describe_failures(usage.failures) == (
        "12 with status 400: 4100 tokens in request req-0a; 3 with tools; 2 with timeout; 1 with others"
    )
