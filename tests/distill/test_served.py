"""Distilling through servers: a stub that fails on purpose, and `transformers serve` with a tiny language model of its own."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Qwen2Config, Qwen2ForCausalLM

from openvlt.data.prompts import PromptStyle
from openvlt.data.synthetic import figures
from openvlt.distill.cut import cut_reflections
from openvlt.distill.pipeline import run_distillation
from openvlt.distill.select import keep_shortest
from openvlt.distill.settings import Distillation
from openvlt.distill.text_model import TextModel
from openvlt.distill.writers.base import CAPTION_TEMPLATE, Question
from openvlt.distill.writers.local import LocalWriter
from openvlt.distill.writers.served import ServedWriter
from openvlt.errors import UserError
from openvlt.model.tiny import END, PAD, make_tokenizer
from openvlt.rollout.hf import HFGenerator
from openvlt.serving.client import Server
from openvlt.serving.protocol import Endpoint, Usage
from openvlt.types import Problem
from tests.distill.test_pipeline import Fake, rows
from tests.helpers.stub_server import requests, stub_server

ROOT = Path(__file__).parents[2]


def served(url: str, model: str = "m", **settings) -> ServedWriter:
    server = Server([Endpoint(url, model)], **{"backoff_s": 0.01, "concurrency": 32, **settings})
    return ServedWriter(server, PromptStyle(), max_new_tokens=64)


def distillation(reason, problems: list[Problem]) -> Distillation:
    captions = Fake({problem.id: [problem.meta["caption"]] for problem in problems})
    return Distillation(reason, cut_reflections, keep_shortest, caption=captions)


def test_a_fifth_of_faults_changes_nothing(tmp_path):
    """The same traces as from a server without faults; every chain answered and in the ledger once."""
    problems = figures.generate_figures(100, split="train", seed=1)
    deadline_s = 600.0
    for name, faults in (("good", 0.0), ("bad", 0.2)):
        (tmp_path / name).mkdir()
        began = time.monotonic()
        with stub_server(tmp_path / name / "log", faults=faults) as url:
            writer = served(url, deadline_s=deadline_s)
            counts = run_distillation(
                distillation(writer, problems), None, problems, folder=tmp_path / name, seed=1
            )
        deadline_s = 2.0 + time.monotonic() - began  # no single answer takes as long as all did
        assert counts["missing"] == 0 and counts["correct"] > 200
        assert Counter(
            number for (kind, _), number in requests(tmp_path / name / "log").items() if kind == "ok"
        ) == {1: 400}
        assert Counter(row["key"] for row in rows(tmp_path / name / "reason.jsonl")).total() == 400
    assert requests(tmp_path / "bad" / "log").total() > 440
    assert (tmp_path / "good" / "traces.jsonl").read_bytes() == (
        tmp_path / "bad" / "traces.jsonl"
    ).read_bytes()


def test_a_restarted_run_asks_only_for_what_is_missing(tmp_path):
    problems = figures.generate_figures(40, split="train", seed=1)
    with stub_server(tmp_path / "log", latency=0.01) as url:
        writer = served(url, concurrency=8)
        asked = [Question(problem, problem.meta["caption"], (0, 1, 2, 3)) for problem in problems]
        stream = writer.write(None, iter(asked), 4, 1, Usage())
        for _ in range(50):
            next(stream)
        stream.close()  # what was under way is cancelled
        assert requests(tmp_path / "log").total() < 80
        settings = distillation(writer, problems)
        run_distillation(settings, None, problems, folder=tmp_path / "run", seed=1)
        before, traces = requests(tmp_path / "log").total(), (tmp_path / "run" / "traces.jsonl").read_bytes()
        kept = (tmp_path / "run" / "reason.jsonl").read_bytes().splitlines(keepends=True)
        (tmp_path / "run" / "reason.jsonl").write_bytes(b"".join(kept[:100]))
        run_distillation(settings, None, problems, folder=tmp_path / "run", seed=1)
        assert (
            requests(tmp_path / "log").total() == before + 60
            and (tmp_path / "run" / "traces.jsonl").read_bytes() == traces
        )


def test_what_a_server_is_shown():
    writer = ServedWriter(
        Server([Endpoint("http://host/v1", "m")]),
        PromptStyle(system="Be brief.", instruction="Think."),
        max_pixels=100,
    )
    picture = Image.new("RGB", (40, 20), "red")
    problem = Problem("p", "Which?", "a", (picture,), choices=("a", "b"))
    system, user = writer.messages(Question(problem, None, (0,)))
    assert system == {"role": "system", "content": "Be brief."} and user["content"][1] == {
        "type": "text",
        "text": "Which?\nChoices:\n(A) a\n(B) b\nThink.",
    }
    url = user["content"][0]["image_url"]["url"]
    with urllib.request.urlopen(url) as file, Image.open(file) as image:
        assert image.size == (14, 7) and image.getpixel((0, 0)) == (255, 0, 0)
    _, turn = writer.messages(Question(problem, "A red box.", (0,)))
    assert turn["content"] == "Description:\nA red box.\n\nQuestion:\nWhich?\nChoices:\n(A) a\n(B) b\nThink."
    options = [writer.options(Question(problem, None, (0,)), sample, 1) for sample in (0, 1, 0)]
    assert (
        options[0] == options[2]
        and options[0]["seed"] != options[1]["seed"]
        and options[0]["max_tokens"] == 2048
    )


# --- a real server ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Qwen2 that has seen forty batches of questions with short answers: it guesses, now and then rightly."""
    problems = figures.generate_figures(320, split="train", seed=1, levels=[1])
    tokenizer = make_tokenizer(
        [f"{problem.question} {problem.meta['caption']} Description: Question:" for problem in problems], 400
    )
    end, pad = tokenizer.convert_tokens_to_ids(END), tokenizer.convert_tokens_to_ids(PAD)
    sizes = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            eos_token_id=end,
            pad_token_id=pad,
            bos_token_id=None,
            tie_word_embeddings=True,
            **sizes,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for start in range(0, 320, 8):
        texts = []
        for number, problem in enumerate(problems[start : start + 8]):
            caption = (
                problem.meta["caption"] if number % 2 else tokenizer.decode(torch.randint(260, (4,)))
            )  # what a random captioner says
            user = [
                {
                    "role": "user",
                    "content": CAPTION_TEMPLATE.format(caption=caption.strip(), question=problem.question),
                }
            ]
            texts.append(
                tokenizer.apply_chat_template(user, add_generation_prompt=True, tokenize=False)
                + f"<answer>{problem.answer}</answer>{END}"
            )
        batch = tokenizer(texts, return_tensors="pt", padding=True)  # on the left
        labels = batch["input_ids"].clone()
        labels[:, :-5] = -100
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("language-model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def transformers_serve(model: Path, log: Path) -> Iterator[str]:
    """`transformers serve` on a free loopback port, as a process of its own."""
    pytest.importorskip("uvicorn", reason="transformers serve needs requirements-dev.txt")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        str(model),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (
        log.open("w") as out,
        subprocess.Popen(
            [*command, "--device", "cpu", "--log-level", "error"], stdout=out, stderr=out
        ) as process,
    ):
        try:
            while True:
                assert process.poll() is None, log.read_text()
                with (
                    contextlib.suppress(OSError),
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer,
                ):
                    assert json.load(answer)["status"] == "ok"
                    break
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def test_a_text_model_in_this_process_reads_captions(language_model):
    problems = figures.generate_figures(4, split="train", seed=2)
    writer = LocalWriter(
        HFGenerator(),
        PromptStyle(),
        max_new_tokens=24,
        greedy=True,
        model=TextModel(str(language_model), dtype="float32"),
        batch=3,
    )
    asked = [Question(problem, problem.meta["caption"], (0,)) for problem in problems]
    replies = [reply for _, _, reply in writer.write(None, iter(asked), 1, 0, Usage())]
    assert [reply.text for reply in replies if "<answer>" in reply.text and reply.finished], replies
    with pytest.raises(UserError, match="no such folder"):
        TextModel("./nowhere").load()


def start(folder: Path, url: str, model: Path, *more: str) -> subprocess.Popen[str]:
    """`python distill.py` with 200 questions about figures: captions by a tiny random model, chains by the server."""
    endpoint = [
        "distill.reason.server.endpoints.urls=[" + url + "]",
        f"distill.reason.server.endpoints.model={model}",
    ]
    words = ["distill=served", *endpoint, "distill.samples=1", "distill.reason.temperature=0", "distill.reason.max_new_tokens=12", "distill.reason.prompt.instruction=",
             "distill.reason.server.concurrency=4", "data.kinds=[bars]", "cycles.one.traces.amount=200", "cycles.one.traces.levels=[1]",
             "tokens.caption=4", "model.training=null", "++model.sizes.hidden=48", "++model.sizes.layers=2",
             f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}", *more]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "distill.py", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate()
    assert process.returncode == 0, out
    return out


@pytest.mark.slow
def test_two_hundred_figures_through_transformers_serve_survive_a_kill(language_model, tmp_path):
    with transformers_serve(language_model, tmp_path / "serve.log") as url:
        whole = finish(start(tmp_path, url, language_model, "name=whole"))
        killed = start(tmp_path, url, language_model, "name=killed")

        def answers() -> int:
            files = (tmp_path / "runs").glob("killed/*/reason.jsonl")
            return sum(len(file.read_bytes().splitlines()) for file in files)

        while answers() < 80:
            assert killed.poll() is None, killed.communicate()[0]
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        (one,), (other,) = (list((tmp_path / "runs" / name).iterdir()) for name in ("whole", "killed"))
        assert 80 <= answers() < 200 and not (other / "traces.jsonl").exists()
        first = (other / "reason.jsonl").read_bytes()
        out = finish(start(tmp_path, url, language_model, "name=killed", f"resume={other}"))
    assert "problems 200" in whole and "problems 200" in out
    assert (
        (other / "reason.jsonl").read_bytes().startswith(first[: first.rfind(b"\n") + 1])
    )  # nothing was asked twice
    by_key = {
        name: {row["key"]: row["text"] for row in rows(folder / "reason.jsonl")}
        for name, folder in (("one", one), ("other", other))
    }
    assert by_key["one"] == by_key["other"] and len(by_key["one"]) == 200 == len(rows(other / "reason.jsonl"))
    for name in ("traces.jsonl", "traces.parquet", "problems.parquet", "messages.jsonl", "sharegpt.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@contextlib.contextmanager
def odd_server(*answers: tuple[int, dict]) -> Iterator[str]:
    """A server in a thread that gives these answers in turn, (status, body) each."""

    class Odd(BaseHTTPRequestHandler):
        def do_POST(self):  # noqa: N802
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = next(turns)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    turns = itertools.cycle(answers)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()


def chat(content: object, **message: object) -> dict:
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": "eos_token"}]}


SAID = "<think>So it is.</think><answer>5</answer>"
CONTEXT = {"error": {"message": "This model's maximum context length is 4096 tokens", "code": 400}}


@pytest.mark.parametrize(
    "answer, cause",
    [
        (
            (200, {"error": {"message": "upstream overloaded", "code": 502}}),
            "5xx: status 502: upstream overloaded",
        ),
        ((400, CONTEXT), "status 400: This model's maximum context length is 4096 tokens"),
        ((200, {"choices": []}), "malformed: it has no choices"),
        ((200, chat(None, refusal="I can't.")), "the answer was withheld: I can't."),
    ],
    ids=["error in 200", "context", "no choices", "refusal"],
)
def test_why_every_request_failed_is_told(
    answer: tuple[int, dict], cause: str, tmp_path: Path, capsys
) -> None:
    """With fewer requests than `concurrency`, too: on the screen, in the last sentence, and in the run's folder."""
    problems = [Problem(f"q{n}", "2 + 3?", "5") for n in range(12)]
    with odd_server(answer) as url:
        settings = Distillation(served(url, attempts=2), cut_reflections, keep_shortest, samples=1)
        with pytest.raises(UserError) as caught:
            run_distillation(settings, None, problems, folder=tmp_path, seed=1)
    shown, sentence = capsys.readouterr().out, str(caught.value)
    assert shown.splitlines()[0].startswith(f"reason: a request failed: {cause}")
    assert f"reason: 12 of 12 requests failed: {cause}" in shown
    assert f"kept no trace: 12 of 12 requests failed: {cause}" in sentence and "resume=" in sentence
    kept = rows(tmp_path / "failures.jsonl")
    assert {row["id"] for row in kept} == {problem.id for problem in problems}
    assert all(row["error"].startswith(cause) and row["stage"] == "reason" for row in kept)


def test_an_empty_account_stops_at_the_first_answer(tmp_path: Path) -> None:
    problems = [Problem(f"q{n}", "2 + 3?", "5") for n in range(12)]
    with odd_server((402, {"error": {"message": "Insufficient Balance"}})) as url:
        settings = Distillation(served(url, concurrency=1), cut_reflections, keep_shortest, samples=1)
        with pytest.raises(UserError, match=r"quota is used up \(status 402: Insufficient Balance\)"):
            run_distillation(settings, None, problems, folder=tmp_path, seed=1)


def test_some_failures_are_told_and_the_rest_is_kept(tmp_path: Path, capsys) -> None:
    """Parts, a thought that is sent twice, and half an emoji become whole traces."""
    problems = [Problem(f"q{n}", "2 + 3?", "5") for n in range(4)]
    emoji = "<think>Oh \ud83d, so it is.</think><answer>5</answer>"
    answers = [(200, chat([{"type": "text", "text": SAID}])), (200, chat(SAID, reasoning="So it is."))]
    with odd_server(*answers, (400, CONTEXT), (200, chat(emoji))) as url:
        settings = Distillation(served(url, concurrency=1), cut_reflections, keep_shortest, samples=1)
        counts = run_distillation(settings, None, problems, folder=tmp_path, seed=1)
    assert (counts["traces"], counts["missing"]) == (3, 1)
    assert "reason: 1 of 4 requests failed: status 400: This model's maximum" in capsys.readouterr().out
    told = sorted(row["response"] for row in rows(tmp_path / "traces.jsonl"))
    assert told == sorted([SAID, SAID, emoji.replace("\ud83d", "\ufffd")])
