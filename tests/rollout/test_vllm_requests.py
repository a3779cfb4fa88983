"""What is sent to a vLLM server and what is refused of its answers; no server is needed."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvlt.errors import UserError
from openvlt.rollout.base import Sampling, ServedGenerator, check_judge
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.rollout.vllm import VLLMGenerator
from openvlt.rollout.vllm_requests import make_requests, prompt_ids, read_completions
from openvlt.rollout.vllm_servers import OwnServers
from openvlt.serving.client import Server
from openvlt.serving.protocol import Endpoint
from openvlt.serving.vllm.process import ServerOptions
from openvlt.types import Problem
from tests.helpers.factories import algorithm

SAMPLING = Sampling(2, 4)


def expand(request: dict, mark: int, tokens: list[int]) -> list[int]:
    """What a server makes of a request's ids."""
    sizes = iter(tokens)
    return [token for one in request["token_ids"] for token in [one] * (next(sizes) if one == mark else 1)]


def pictures(request: dict) -> list[np.ndarray]:
    urls = [part["url"].partition(",")[2] for part in request.get("content_parts", [])]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(url)))) for url in urls]


def test_a_prompt_is_sent_with_one_mark_an_image_and_as_many_images(vlm, mixed, render):
    prompts, mark = render(mixed), vlm.core.config.image_token_id
    tokens = iter((prompts.vision["image_grid_thw"].prod(-1) // 4).tolist())
    for row, request in enumerate(make_requests(vlm, mixed, prompts, SAMPLING, 1)):
        images = len(mixed[row].images)
        assert request["token_ids"].count(mark) == images == len(pictures(request))
        assert expand(request, mark, [next(tokens) for _ in range(images)]) == prompt_ids(prompts, row)


def test_two_images_that_touch_stay_two(vlm, render):
    side = Image.new("RGB", (56, 56))
    problem = Problem("touch", "Same?", "no", (side, side))
    prompts, mark = render([problem]), vlm.core.config.image_token_id
    ids = prompts.ids_PL[0]
    apart = [vlm.tokenizer.convert_tokens_to_ids(name) for name in ("<|vision_start|>", "<|vision_end|>")]
    kept = [token for token in ids.tolist() if token not in apart]  # nothing between the two runs of marks
    prompts = type(prompts)(ids[None, : len(kept)].new_tensor([kept]), ids.new_ones(1, len(kept)), ids.new_zeros(1, len(kept)), prompts.images_P, prompts.vision)  # fmt: skip
    (request,) = make_requests(vlm, [problem], prompts, SAMPLING, 1)
    assert request["token_ids"].count(mark) == 2


def test_images_are_sent_as_the_model_sees_them(vlm, mixed, render):
    """Rendering what is sent gives the same pixels: nothing is left to resize."""
    for row, request in enumerate(make_requests(vlm, mixed, render(mixed), SAMPLING, 1)):
        if mixed[row].images:
            seen = Problem("seen", mixed[row].question, "1", tuple(map(Image.fromarray, pictures(request))))
            again, once = render([seen]), render([mixed[row]])
            assert again.vision["image_grid_thw"].tolist() == once.vision["image_grid_thw"].tolist()
            assert (again.vision["pixel_values"] - once.vision["pixel_values"]).abs().max() < 1e-5


def test_seeds_follow_seed_and_problem(vlm, mixed, render):
    def seeds(seed: int) -> list[int]:
        return [
            one["sampling_params"]["seed"] for one in make_requests(vlm, mixed, render(mixed), SAMPLING, seed)
        ]

    assert seeds(1) == seeds(1) and len({*seeds(1), *seeds(2)}) == 2 * len(mixed)


def test_greedy_sends_no_truncation(vlm, mixed, render):
    (request,) = make_requests(vlm, mixed[:1], render(mixed[:1]), Sampling(1, 4, greedy=True, top_p=0.5), 1)
    sent = request["sampling_params"]
    assert (sent["temperature"], sent["top_p"], sent["top_k"], sent["n"], sent["max_tokens"]) == (
        0.0,
        1.0,
        0,
        1,
        4,
    )
    assert set(map(int, sent["logit_bias"])) == set(vlm.banned_V().nonzero()[:, 0].tolist())


def answer(vlm, prompt: list[int]) -> dict:
    """A server's good answer to SAMPLING: one completion of four tokens, one that ends itself."""

    def choice(index: int, tokens: list[int], reason: str) -> dict:
        logp = {"content": [{"logprob": -1.0 - index} for _ in tokens]}
        spans = [{"version": "v", "start": 0, "end": len(tokens)}]
        return {
            "index": index,
            "token_ids": tokens,
            "logprobs": logp,
            "finish_reason": reason,
            "weight_versions": spans,
        }

    end = vlm.stop_ids[0]
    return {
        "prompt_token_ids": prompt,
        "choices": [choice(1, [70, end], "stop"), choice(0, [70, 71, 72, 73], "length")],
    }


def test_a_good_answer_is_read_in_the_order_of_its_samples(vlm, mixed):
    first, second = read_completions(vlm, mixed[:1], [[5, 6]], [answer(vlm, [5, 6])], SAMPLING, "v")
    assert (first.token_ids, first.finished, first.logp) == ((70, 71, 72, 73), False, (-1.0,) * 4)
    assert second.finished and second.logp == (-2.0, -2.0)
    assert second.text == vlm.tokenizer.decode([70])
    cut = Sampling(2, 4, top_p=0.9)
    assert read_completions(vlm, mixed[:1], [[5, 6]], [answer(vlm, [5, 6])], cut, "v")[0].logp == ()


def break_prompt(found: dict) -> None:
    found["prompt_token_ids"] = [5, 6, 6]


def break_count(found: dict) -> None:
    found["choices"].pop()


def break_version(found: dict) -> None:
    found["choices"][0]["weight_versions"].append({"version": "w", "start": 1, "end": 2})


def break_length(found: dict) -> None:
    found["choices"][1]["token_ids"].pop()


def break_end(found: dict) -> None:
    found["choices"][0]["token_ids"][-1] = 71


def break_reason(found: dict) -> None:
    found["choices"][0]["finish_reason"] = "abort"


def break_ban(found: dict) -> None:
    found["choices"][1]["token_ids"][0] = 10**6


def break_logp(found: dict) -> None:
    found["choices"][1]["logprobs"]["content"][0]["logprob"] = float("nan")


def drop_logp(found: dict) -> None:
    found["choices"][1]["logprobs"] = None


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (break_prompt, r"row 'one': the server reads another prompt \(3 tokens, ours 2\)"),
        (break_count, "row 'one': the server gave 1 completions, asked were 2"),
        (break_version, "answered with weights 'v', 'w', not 'v': another run uses this server"),
        (
            break_length,
            "row 'one': cut after 3 of 4 tokens, at the server's max_model_len; start the server with",
        ),
        (break_end, "row 'one': the server ended it by 'stop', but no stop token or string is at its end"),
        (break_reason, "row 'one': the server ended it by 'abort'"),
        (break_ban, "row 'one': the server generated a token that is banned"),
        (break_logp, "row 'one': 4 log-probabilities for 4 tokens, or some that aren't finite"),
        (drop_logp, "row 'one': 0 log-probabilities for 4 tokens"),
    ],
)
def test_a_wrong_answer_is_refused(vlm, mixed, damage: Callable, sentence: str):
    found = answer(vlm, [5, 6])
    damage(found)
    with pytest.raises(UserError, match=sentence):
        read_completions(vlm, mixed[:1], [[5, 6]], [found], SAMPLING, "v")


@pytest.mark.parametrize("stop", [(), ("GHI",)], ids=["token", "string"])
def test_an_answer_that_went_on_after_its_end_is_refused(vlm, mixed, stop: tuple[str, ...]):
    """By a stop token in its midst, or by a stop string that a later token left behind."""
    found, sampling = answer(vlm, [5, 6]), Sampling(2, 4, stop=stop)
    text = vlm.tokenizer.encode("GHI", add_special_tokens=False)[:3] if stop else [70, vlm.stop_ids[0], 71]
    found["choices"][1]["token_ids"] = [*text, 70, 71, 72][:4]
    assert not stop or vlm.tokenizer.decode(text) == "GHI"
    with pytest.raises(UserError, match="row 'one': the server went on after a stop token or string"):
        read_completions(vlm, mixed[:1], [[5, 6]], [found], sampling, "v")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "needs either rollout.start=true, which starts its own servers, or the addresses"),
        ({"urls": ["http://a"], "start": True}, "needs either"),
        ({"start": True, "weights": "pigeons"}, "rollout.weights=pigeons; choose from files, group, adapter"),
        ({"start": True, "backend": "mpi"}, "rollout.backend=mpi; choose from gloo, nccl"),
        ({"start": True, "concurrency": 0}, "concurrency"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        VLLMGenerator(**settings)


def test_a_folder_for_servers_that_cannot_be_is_one_sentence(vlm):
    with pytest.raises(
        UserError, match=r"/proc/no/openvlt-server-\w+: the weights can't be written there \(No such"
    ):
        OwnServers(ServerOptions(), None, Path("/proc/no"), 1.0).launch(vlm)


def test_only_generators_with_servers_are_asked_to_sync():
    assert isinstance(VLLMGenerator(start=True), ServedGenerator)
    assert not isinstance(PrefixGenerator(), ServedGenerator)


@pytest.mark.parametrize("url", ["http://localhost:8001/v1", "http://127.0.0.1:8001/v1"])
def test_a_judge_whose_weights_would_be_the_policys_is_refused(url):
    generator, judge = (
        VLLMGenerator(["http://127.0.0.1:8000", "http://127.0.0.1:8001"]),
        Server([Endpoint(url, "m")]),
    )
    with pytest.raises(
        UserError, match="the judge at .*:8001/v1 is one of rollout.urls, .* start a server of its"
    ):
        check_judge(generator, judge)
    with pytest.raises(UserError, match="is one of rollout.urls"):
        algorithm(generator=generator, judge=judge)
    check_judge(generator, Server([Endpoint("http://127.0.0.1:8002/v1", "m")]))
    check_judge(PrefixGenerator(), judge)
