"""Talking to servers: every request is answered once, whatever the server does; what no retry mends is one sentence."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest

from openvlt.errors import UserError
from openvlt.serving.client import Server
from openvlt.serving.protocol import ChatRequest, Endpoint, Usage
from openvlt.storage.ledger import Ledger
from tests.helpers.stub_server import FAULTS, requests, stub_server


def asks(amount: int) -> list[ChatRequest]:
    return [
        ChatRequest([{"role": "user", "content": f"question {number}"}], {"seed": number}, f"{number:032x}")
        for number in range(amount)
    ]


def server(*urls: str, **settings) -> Server:
    return Server(
        [Endpoint(url, "m", input_price=1.0, output_price=2.0) for url in urls],
        **{"backoff_s": 0.01, **settings},
    )


def test_a_fifth_of_faults_loses_nothing_and_doubles_nothing(tmp_path):
    for deadline_s in (1.0, 4.0, 16.0, 64.0):  # on a busy machine good answers come late, too
        usage, log = Usage(), tmp_path / f"log-{deadline_s}"
        with stub_server(log, latency=0.005, faults=0.2) as url:
            stream = server(url, deadline_s=deadline_s, concurrency=32).stream(iter(asks(400)), usage)
            pairs = list(stream)
        late = sum(times for (kind, _), times in requests(log).items() if kind == "late")
        if usage.retries["timeout"] == late:
            break
    assert Counter(ask.key for ask, _ in pairs) == Counter(ask.key for ask in asks(400))
    assert all(
        reply.text.startswith(f"echo {ask.messages[0]['content']} ") and reply.finished
        for ask, reply in pairs
    )
    seen = requests(log)
    assert all(seen["ok", name] == 1 for _, name in seen)  # no request was answered twice
    kinds = Counter()
    for (kind, _), times in seen.items():
        kinds[kind] += times
    assert (
        set(kinds) == {"ok", *FAULTS} and kinds["ok"] == 400 and kinds.total() - 400 == usage.retries.total()
    )
    assert usage.retries == {
        "429": kinds["429"],
        "5xx": kinds["500"],
        "connection": kinds["drop"],
        "timeout": kinds["late"],
        "malformed": kinds["half"] + kinds["no JSON"],
    }
    assert (usage.requests, usage.failed, usage.input_tokens, usage.output_tokens) == (400, 0, 4000, 2000)
    assert usage.cost == pytest.approx(400 * (10 * 1.0 + 5 * 2.0) / 1e6)


def test_sixty_four_at_once_keep_a_slow_server_busy(tmp_path):
    """The server answers only when 64 requests wait, ten times; `bench/distill.py` measures what a request costs."""
    with stub_server(tmp_path / "log", together=64) as url:
        assert sum(1 for _ in server(url).stream(iter(asks(640)))) == 640


def test_asks_are_read_as_there_is_room(tmp_path):
    read_so_far = 0

    def endless():
        nonlocal read_so_far
        for ask in asks(100000):
            read_so_far += 1
            yield ask

    with stub_server(tmp_path / "log") as url:
        stream = server(url, concurrency=4).stream(endless())
        for _ in range(20):
            next(stream)
        stream.close()
    assert 20 <= read_so_far <= 20 + 2 * 4 + 1


def test_several_endpoints_share_the_work_and_one_that_dies_loses_nothing(tmp_path):
    with (
        stub_server(tmp_path / "one", together=4) as one,
        stub_server(tmp_path / "two", together=4) as two,
    ):
        stream = server(one, two, concurrency=8).stream(asks(1000))  # so none waits for company
        assert len(list(itertools.islice(stream, 96))) == 96
        stream.close()
        shares = [requests(tmp_path / name).total() for name in ("one", "two")]
        assert min(shares) >= 4 and 96 <= sum(shares) <= 96 + 2 * 8
    with stub_server(tmp_path / "left", latency=0.01) as left:
        usage = Usage()
        replies = [reply for _, reply in server(two, left, concurrency=8).stream(asks(50), usage)]
    assert not any(reply.error for reply in replies) and requests(tmp_path / "left").total() == 50
    assert 0 < usage.retries["unreachable"] < 50  # the dead one doesn't draw every request


def test_a_ledger_makes_repeats_free(tmp_path):
    with stub_server(tmp_path / "log") as url, Ledger(tmp_path / "judge.jsonl") as ledger:
        plain = [ChatRequest([{"role": "user", "content": text}]) for text in ("a", "b", "a")]
        first = server(url).ask(plain, ledger=ledger)
        assert [reply.text.split()[1] for reply in first] == ["a", "b", "a"] and first[0] == first[2]
        assert server(url).ask(plain, ledger=ledger) == first
    assert requests(tmp_path / "log").total() == 2
    with Ledger(tmp_path / "judge.jsonl") as ledger:  # no server is needed for what is known
        assert server("http://127.0.0.1:9/v1").ask(plain, ledger=ledger) == first


def test_what_is_never_answered_comes_back_with_its_error_and_is_in_no_ledger(tmp_path):
    with stub_server(tmp_path / "log", faults=1.0) as url, Ledger(tmp_path / "judge.jsonl") as ledger:
        replies = server(url, attempts=2, deadline_s=0.2).ask(asks(3), ledger=ledger)
        assert (
            all(reply.text == "" and "(2 attempts)" in reply.error for reply in replies) and len(ledger) == 0
        )
        with pytest.raises(UserError, match="8 requests in a row failed: .*; mend the server, then resume"):
            list(server(url, attempts=1, deadline_s=0.2, concurrency=4).stream(asks(100)))


def test_no_server_is_one_sentence():
    with pytest.raises(
        UserError, match=r"no server answers at http://127\.0\.0\.1:9/v1 .*; start it, or correct the url"
    ):
        list(server("http://127.0.0.1:9/v1").stream(asks(3)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key": "sk-123-secret"}, "`key` is the name of an environment variable"),
        ({"url": "http://me:secret@host/v1"}, "without user name or password"),
        ({"url": "localhost:8000"}, "isn't of the form http://host:port/v1"),
    ],
)
def test_a_key_in_the_configuration_is_refused_and_not_repeated(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        Endpoint(**{"url": "http://host/v1", "model": "m", **settings})
    assert "secret" not in str(caught.value)


def test_settings_that_cannot_be():
    with pytest.raises(UserError, match="has no endpoints"):
        Server([])
    with pytest.raises(UserError, match="concurrency=0"):
        server("http://host/v1", concurrency=0)


def test_keys_stay_in_the_environment(tmp_path: Path, monkeypatch):
    """A server that says the key aloud doesn't bring it into our message."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Loud(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            body = json.dumps({"error": {"message": f"bad key {self.headers['Authorization']}"}}).encode()
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    loud = HTTPServer(("127.0.0.1", 0), Loud)
    threading.Thread(target=loud.serve_forever, daemon=True).start()
    endpoint = Endpoint(f"http://127.0.0.1:{loud.server_port}/v1", "m", key="MY_KEY")
    with pytest.raises(
        UserError, match=r"refuses the key in MY_KEY \(.*Bearer \*\*\*.*\); export MY_KEY=<key>"
    ) as caught:
        list(Server([endpoint]).stream(asks(1)))
    loud.shutdown()
    assert "secret" not in str(caught.value) and "secret" not in repr(endpoint)
