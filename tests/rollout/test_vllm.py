"""rollout=vllm against a real vLLM server on the CPU: the same tokens and log-probabilities, whatever the weights."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from peft import LoraConfig
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from openvlt.data.prompts import pad_right
from openvlt.errors import UserError
from openvlt.model.load import VLM, add_adapter
from openvlt.model.shared_prefix.logprob import completion_logp
from openvlt.reward.services import Services
from openvlt.rollout.base import GenerationRequest, Sampling
from openvlt.rollout.distributed import begin_on_ranks, generate_on_ranks
from openvlt.rollout.hf import HFGenerator
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.rollout.vllm import VLLMGenerator
from openvlt.serving.client import Server
from openvlt.serving.protocol import Endpoint
from openvlt.serving.vllm.client import LostServer, VLLMServer
from openvlt.serving.vllm.process import CPU_BATCH_TOKENS, ServerProcess
from openvlt.types import Completion, Problem
from tests.helpers import vllm_ranks
from tests.helpers.vllm_server import running_server, stir, untied, vllm_python

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

GREEDY = Sampling(max_new_tokens=16, greedy=True)
LANGUAGE = r".*language_model.*\.(q_proj|v_proj|up_proj)"


@pytest.fixture(scope="module")
def model(vlm: VLM) -> VLM:
    return untied(VLM(copy.deepcopy(vlm.model), vlm.processor, vlm.path))


@pytest.fixture(scope="module")
def served(model: VLM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ServerProcess]]:
    yield from running_server(model, tmp_path_factory.mktemp("vllm"), lora_rank=8)


@pytest.fixture
def url(served: tuple[str, ServerProcess]) -> str:
    return served[0]


@pytest.fixture
def policy(model: VLM) -> VLM:
    """A copy of the served model, to change."""
    return VLM(copy.deepcopy(model.model), model.processor, model.path)


@pytest.fixture
def generate(render: Callable) -> Callable[..., list[Completion]]:
    def run(generator, vlm: VLM, problems: Sequence[Problem], sampling: Sampling = GREEDY, seed: int = 5):
        return generate_on_ranks(generator, vlm, problems, render(problems), sampling, seed)

    return run


def scored(
    vlm: VLM, render: Callable, problems: Sequence[Problem], done: list[Completion], temperature: float
) -> float:
    """The largest difference of the completions' log-probabilities from those that the model gives."""
    ids, mask = pad_right([one.token_ids for one in done], vlm.pad_id)
    groups = torch.arange(len(problems)).repeat_interleave(len(done) // len(problems))
    with torch.no_grad():
        logp, _ = completion_logp(vlm, render(problems), ids, mask, groups, temperature=temperature)
    theirs = pad_sequence([torch.tensor(one.logp) for one in done], batch_first=True)
    return float(((logp - theirs) * mask).abs().max())


@pytest.mark.parametrize("stop", [(), ("e",)])
def test_greedy_tokens_are_those_of_our_own_generators(url, policy, mixed, generate, stop):
    sampling = replace(GREEDY, stop=stop)
    for seed in (1, 2):
        stir(policy, seed)
        theirs = generate(VLLMGenerator([url]), policy, mixed, sampling)
        for ours in (PrefixGenerator(), HFGenerator()):
            for one, other in zip(theirs, generate(ours, policy, mixed, sampling), strict=True):
                assert (one.token_ids, one.text, one.finished) == (
                    other.token_ids,
                    other.text,
                    other.finished,
                )
                assert one.logp == pytest.approx(other.logp, abs=1e-4)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.3])
def test_log_probabilities_are_those_of_the_model(url, policy, mixed, render, generate, temperature):
    stir(policy, 3)
    done = generate(VLLMGenerator([url]), policy, mixed, Sampling(4, 24, temperature=temperature))
    assert len({one.token_ids for one in done}) > 12
    assert scored(policy, render, mixed, done, temperature) < 1e-4


def test_truncated_sampling_has_no_log_probabilities(url, policy, mixed, generate):
    for sampling in (Sampling(2, 8, top_p=0.8), Sampling(2, 8, top_k=5)):
        assert all(one.logp == () for one in generate(VLLMGenerator([url]), policy, mixed, sampling))


def test_banned_tokens_are_never_generated(url, policy, mixed, render, generate):
    with torch.no_grad():  # the head likes banned tokens best
        hidden = policy.core.lm_head.weight
        hidden[policy.banned_V()] = 3 * hidden[~policy.banned_V()].mean(0) + hidden.std()
    done = generate(VLLMGenerator([url]), policy, mixed, Sampling(4, 24))
    assert scored(policy, render, mixed, done, 1.0) < 1e-4


def test_samples_depend_on_seed_problem_and_number_alone(url, policy, mixed, generate):
    sampling, generator = Sampling(4, 24), VLLMGenerator([url])
    once = [one.token_ids for one in generate(generator, policy, mixed, sampling)]
    assert once == [one.token_ids for one in generate(generator, policy, mixed, sampling)]
    alone = [one.token_ids for problem in mixed for one in generate(generator, policy, [problem], sampling)]
    assert once == alone and len(set(once)) > 12
    assert once != [one.token_ids for one in generate(generator, policy, mixed, sampling, seed=6)]
    renamed = [replace(problem, id=f"{problem.id}'") for problem in mixed]
    assert once != [one.token_ids for one in generate(generator, policy, renamed, sampling)]


@pytest.mark.parametrize("parts", ["visual", "language_model", "lm_head", ""])
@pytest.mark.parametrize("weights", ["files", "group"])
def test_new_weights_reach_prompts_and_images_that_are_cached(
    url, policy, mixed, render, generate, weights, parts
):
    """Without the resets of the caches a long prompt, or an image, would keep the old weights."""
    long = [replace(one, question="What is red + green + blue? " * 32) for one in mixed]
    assert min(render([one]).ids_PL.shape[1] for one in long) > 256
    generator = VLLMGenerator([url], weights=weights)
    generate(generator, policy, long)
    for seed in (1, 2):
        stir(policy, seed, parts)
        assert scored(policy, render, long, generate(generator, policy, long, Sampling(2, 8)), 1.0) < 1e-4


def test_more_prompts_than_a_step_of_the_server_takes(url, policy, mixed, render, generate):
    """vLLM on a CPU ends where a prompt with a seed is read in two parts."""
    many = [
        replace(mixed[n % 4], id=f"p{n}", question="What is red + green + blue? " * 100) for n in range(48)
    ]
    assert 2 * render(many).mask_PL.sum() > 2 * CPU_BATCH_TOKENS
    done = generate(VLLMGenerator([url]), policy, many, Sampling(2, 4))
    assert scored(policy, render, many[:8], done[:16], 1.0) < 1e-4


def test_fifty_updates_do_not_drift(url, policy, mixed, render, generate):
    generator = VLLMGenerator([url], weights="group")
    for seed in range(50):
        stir(policy, seed, "layers.1")
        done = generate(generator, policy, mixed[:2], Sampling(2, 4))
        assert scored(policy, render, mixed[:2], done, 1.0) < 1e-4


def test_equal_weights_are_not_sent_twice(url, policy, mixed, generate, monkeypatch):
    generate(VLLMGenerator([url]), policy, mixed)
    monkeypatch.setattr(VLLMServer, "replace_weights", lambda *_: pytest.fail("sent again"))
    generate(VLLMGenerator([url]), policy, mixed)
    generate(VLLMGenerator([url], weights="group"), policy, mixed)


@pytest.mark.parametrize("kind", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_an_adapter_is_merged_into_what_is_sent(url, policy, mixed, generate, kind):
    settings = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "up_proj", "qkv"], **kind)
    wrapped = VLM(add_adapter(policy.model, settings), policy.processor, policy.path)
    before = {name: value.clone() for name, value in wrapped.model.named_parameters()}
    stir(wrapped, 1, "lora_B")
    before |= {name: value.clone() for name, value in wrapped.model.named_parameters() if "lora_B" in name}
    plain = generate(PrefixGenerator(), wrapped, mixed)
    assert same(generate(VLLMGenerator([url]), wrapped, mixed), plain)
    with wrapped.model.disable_adapter():
        off = generate(PrefixGenerator(), wrapped, mixed)
        assert same(generate(VLLMGenerator([url]), wrapped, mixed), off) and not same(off, plain)
    assert all(torch.equal(value, before[name]) for name, value in wrapped.model.named_parameters())


def same(some: list[Completion], others: list[Completion]) -> bool:
    pairs = list(zip(some, others, strict=True))
    return all(one.token_ids == other.token_ids for one, other in pairs) and all(
        one.logp == pytest.approx(other.logp, abs=1e-4) for one, other in pairs
    )


def test_an_adapter_travels_alone_and_can_be_off(url, policy, mixed, generate):
    wrapped = VLM(
        add_adapter(policy.model, LoraConfig(r=8, target_modules=LANGUAGE)), policy.processor, policy.path
    )
    generator = VLLMGenerator([url], weights="adapter")
    seen = []
    for seed in (1, 2):
        stir(wrapped, seed, "lora_")
        seen.append(generate(generator, wrapped, mixed))
        assert same(seen[-1], generate(PrefixGenerator(), wrapped, mixed))
        with wrapped.model.disable_adapter():
            seen.append(generate(generator, wrapped, mixed))
            assert same(seen[-1], generate(PrefixGenerator(), wrapped, mixed))
    assert not same(seen[0], seen[2]) and not same(seen[0], seen[1]) and same(seen[1], seen[3])
    assert len([name for name in VLLMServer(url).adapters() if name.startswith("adapter-")]) == 1


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"target_modules": ["qkv"]}, "on the vision tower"),
        ({"target_modules": LANGUAGE, "use_dora": True}, "of a kind that vLLM doesn't know"),
        ({"target_modules": LANGUAGE, "modules_to_save": ["lm_head"]}, "trained beside the adapter"),
    ],
)
def test_adapters_that_vllm_leaves_out_are_refused(url, policy, mixed, generate, settings, why):
    wrapped = VLM(add_adapter(policy.model, LoraConfig(r=8, **settings)), policy.processor, policy.path)
    with pytest.raises(UserError, match=f"{why}.* rollout.weights=files"):
        generate(VLLMGenerator([url], weights="adapter"), wrapped, mixed)


def test_another_runs_weights_are_noticed(url, policy, mixed, render):
    generator = VLLMGenerator([url])
    generator.sync(policy)
    stir(policy, 9)
    VLLMGenerator([url]).sync(policy)  # another run's
    with pytest.raises(UserError, match="answered with weights .* another run uses this server"):
        generator.generate(policy, mixed, render(mixed), GREEDY, 5)


def test_what_is_generated_ahead_has_the_weights_of_its_beginning(url, policy, mixed, render, generate):
    """The policy moves meanwhile; its new weights are sent when nothing is being generated."""
    generator, sampling = VLLMGenerator([url], ahead=1), Sampling(2, 24)
    expected = generate(generator, policy, mixed, sampling)
    requests = [GenerationRequest(mixed, render(mixed), sampling, 5)]
    pending = begin_on_ranks(generator, policy, requests)
    stir(policy, 12)
    with pytest.raises(UserError, match="rollout.ahead=1: something asks the servers for another model"):
        generator.sync(policy)
    assert pending.wait() == [expected] and pending.seconds > 0
    moved = generate(generator, policy, mixed, sampling)
    assert not same(moved, expected) and scored(policy, render, mixed, moved, 1.0) < 1e-4


def test_what_is_given_up_leaves_the_server_as_it_was(url, policy, mixed, render, generate):
    generator = VLLMGenerator([url], ahead=1)
    begin_on_ranks(generator, policy, [GenerationRequest(mixed, render(mixed), Sampling(4, 512), 5)]).cancel()
    stir(policy, 13)
    assert same(generate(generator, policy, mixed), generate(PrefixGenerator(), policy, mixed))


def test_what_does_not_fit_is_one_sentence(url, policy, mixed, render, generate):
    with pytest.raises(
        UserError, match=r"max_model_len 1024, less than prompt \d+ \+ response 2000; start it with"
    ):
        generate(VLLMGenerator([url]), policy, mixed, Sampling(1, 2000))
    image = Image.new("RGB", (56, 56))
    with pytest.raises(UserError, match=r"At most 8 image\(s\)"):
        generate(VLLMGenerator([url]), policy, [Problem("many", "Same?", "no", (image,) * 9)])
    with pytest.raises(UserError, match=r"can't be written there \(No such|Not a directory|Permission"):
        stir(policy, 11)
        generate(VLLMGenerator([url], folder="/proc/nothing"), policy, mixed)


def test_a_saved_folder_loads_in_a_stock_processor(served, model):
    """The server has loaded its weights already; its transformers has torchvision, and another version than ours."""
    folder = served[1].log.parents[1] / "model"
    code = (
        "import sys; from transformers import AutoProcessor; from PIL import Image\n"
        "p = AutoProcessor.from_pretrained(sys.argv[1])\n"
        "t = p.apply_chat_template([{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': 'red?'}]}], add_generation_prompt=True)\n"
        "print(type(p).__name__, p(text=[t], images=[Image.new('RGB', (56, 56))])['input_ids'][0])\n"
    )
    site = Path(__file__).parents[2] / "openvlt" / "serving" / "vllm" / "site"
    done = subprocess.run(
        [vllm_python(), "-c", code, str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(site)},
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.startswith("Qwen2_5_VLProcessor") and str(model.core.config.image_token_id) in done.stdout
    )


def test_a_server_of_ours_is_a_judge_under_its_folders_name(served):
    model = str(served[1].log.parents[1] / "model")
    asks = ["Is red + green yellow? Say yes or no.", "Is it blue?"]
    judge = Server([Endpoint(f"{served[0]}/v1", model)])
    replies = Services(judge=judge).ask(asks)
    assert all(replies) and replies == Services(judge=judge).ask(asks)
    with pytest.raises(UserError, match="doesn't know model 'policy'"):
        Services(judge=Server([Endpoint(f"{served[0]}/v1", "policy")])).ask(asks)


def test_two_processes_with_shards_train_as_with_our_own_generator(served, tmp_path):
    """Four updates of two rollouts: rewards, losses and gradients of the same completions."""
    (tmp_path / "model").symlink_to(served[1].log.parents[1] / "model")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, vllm_ranks.__file__, str(tmp_path), served[0]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    ours = found.pop("prefix")
    assert any(row["grad_norm"] > 0 for row in ours) and len({row["reward"] for row in ours}) > 1
    for rows in found.values():
        for row, other in zip(rows, ours, strict=True):
            assert row.keys() == other.keys()
            for name in ("reward", "length", "loss", "grad_norm", "entropy"):
                assert row[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name


def test_weights_with_a_hole_are_refused_and_the_server_is_lost(served, policy, tmp_path):
    """Last: they leave no server. vLLM itself takes a file with a missing tensor, and mixes old and new."""
    from openvlt.model.export import merged_weights, write_weights

    url, process = served
    named = [(name, value) for name, value in merged_weights(policy) if "layers.1.mlp.down_proj" not in name]
    write_weights(named, tmp_path)
    with pytest.raises(LostServer, match=r"didn't take new weights .*1 tensors were not sent.*resume="):
        VLLMServer(url).replace_weights("receive_folder", [str(tmp_path)], "holed")


def test_a_server_that_dies_in_mid_rollout_is_one_sentence(vlm, mixed, render, tmp_path):
    """A server of its own: the one before has lost its weights."""
    for url, _ in running_server(untied(VLM(copy.deepcopy(vlm.model), vlm.processor, vlm.path)), tmp_path):
        server = VLLMServer(url)
        request = {"token_ids": [30] * 20, "sampling_params": {"max_tokens": 900, "min_tokens": 900}}
        killer = threading.Thread(target=kill_when_busy, args=(url,))
        killer.start()
        with pytest.raises(LostServer, match="was lost while it generated .*; start it with: .* resume="):
            while True:  # until one of them finds no server
                server.generate([request] * 8)
        killer.join()
        with pytest.raises(UserError, match="no vLLM server answers at .* after 0.1 s; start it with"):
            VLLMGenerator([url], wait_s=0.1).sync(vlm)


def kill_when_busy(url: str) -> None:
    """Kills the server's process when it works on a request."""
    while not re.search(r"num_requests_running\{[^}]*\} [1-9]", httpx.get(f"{url}/metrics").text):
        pass
    port = url.rpartition(":")[2].encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if port in words and b"openvlt.serving.vllm.process" not in words:
                os.kill(int(folder.name), signal.SIGKILL)
