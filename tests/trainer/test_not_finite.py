"""A loss or gradient that is no number stops the stage at that step, publishes nothing, and can be replayed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.errors import UserError
from openvlt.grpo.parts.advantage import centre_by_group
from openvlt.grpo.train import train_grpo
from openvlt.model.load import VLM, add_adapter
from openvlt.model.tiny import TinyConfig, TinyModel
from openvlt.rollout.base import Sampling
from openvlt.rollout.hf import HFGenerator
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.sft.module import SFT, SFTModule, sft_loss
from openvlt.trainer.loop import TrainingLoop
from openvlt.trainer.metrics import read_metrics
from openvlt.trainer.module import Optimisation
from openvlt.trainer.not_finite import NotFinite, replay_step
from openvlt.trainer.optimizer import adamw, constant, muon
from openvlt.trainer.replay import main as replay
from openvlt.types import Trace
from tests.helpers.factories import algorithm

LOOP = TrainingLoop(accelerator="cpu", progress=False)


def parity(rollouts, services) -> torch.Tensor:
    """A reward that any model earns now and then."""
    return torch.tensor([float(sum(one.token_ids) % 2 == 0) for one in rollouts.completions])


def broken_advantage(reward_N, group_N, *, value: float = math.nan):
    return centre_by_group(reward_N, group_N) + value


def broken_loss(logp_NT, old_logp_NT, adv_NT, mask_NT):
    """Finite at once, but its gradient isn't: the root of zero."""
    return (logp_NT - old_logp_NT).abs().sqrt() + 0 * adv_NT


@pytest.fixture
def sft(fresh, problems, tmp_path) -> Callable[..., VLM]:
    """`sft(rate)` trains a fresh model for six steps at that learning rate."""
    traces = [Trace(p, f"<think>{p.question}</think><answer>{p.answer}</answer>") for p in problems]

    def train(change: Callable[[VLM], Any] = lambda vlm: None, optimizer: Any = None, **settings: Any) -> VLM:
        vlm = fresh()
        change(vlm)
        optimizer = optimizer or partial(adamw, learning_rate=1e-3)
        sizes = {"epochs": 2, "batch_size": 4, "micro_batch": 2, "warmup_ratio": 0.0}
        SFT(LOOP, PromptStyle(), optimizer, constant, **{**sizes, **settings}).train(
            vlm, traces, folder=tmp_path, seed=3, title="sft1"
        )
        return vlm

    return train


def stop(train: Callable[[], Any], folder: Path) -> tuple[str, list]:
    """The sentence, and the replayed micro-batches; nothing else may be left in the stage's folder."""
    with pytest.raises(UserError) as error:
        train()
    message = str(error.value)
    file = folder / "not_finite.pt"
    assert "\n" not in message and f"python -m openvlt.trainer.replay {file}" in message
    assert {path.name for path in folder.iterdir()} <= {
        *("not_finite.pt", "signatures.json", "metrics.csv", "rollouts.jsonl", "progress.json")
    }
    content, results = replay_step(file)
    assert not all(result.finite for result in results)
    assert f"step {content['step']}: the " in message
    return message, results


def set_weight(value: float) -> Callable[[VLM], None]:
    def change(vlm: VLM) -> None:
        with torch.no_grad():
            vlm.core.get_input_embeddings().weight[vlm.tokenizer.convert_tokens_to_ids("<think>")] = value

    return change


@pytest.mark.parametrize("optimizer", [partial(adamw, learning_rate=1e30), partial(muon, learning_rate=1e30, muon_learning_rate=1e30)])  # fmt: skip
def test_a_learning_rate_too_high_stops_sft_at_the_next_step(sft, tmp_path, capsys, optimizer):
    message, results = stop(lambda: sft(optimizer=optimizer), tmp_path)
    assert message.startswith("sft1, step 2: the loss is ") and "learning rate 1e+30" in message
    assert "published nothing; lower the learning rate" in message and len(results) == 2
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv")] == [1]
    assert replay([str(tmp_path / "not_finite.pt")]) == 0
    out = capsys.readouterr().out
    assert "step 2 of the run: loss" in out and "micro-batch 2 of 2: loss" in out
    assert "not finite: micro-batch 1, 2" in out and "tensors' gradients" in out


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_a_batch_that_meets_a_broken_weight_stops_sft(sft, tmp_path, value):
    message, _ = stop(lambda: sft(set_weight(value)), tmp_path)
    assert message.startswith("sft1, step 1: the loss is nan") and "gradient norm is nan" in message


def test_the_weights_stay_those_before_the_step(fresh, problems):
    vlm = fresh()
    module = SFTModule(vlm, Optimisation(partial(adamw, learning_rate=1e-3), constant), 3, 2)
    traces = [Trace(problem, f"<answer>{problem.answer}</answer>") for problem in problems[:4]]
    batch = Renderer(vlm.processor, PromptStyle()).sft_batch(traces, 64)
    optimizers = module.configure_optimizers()[0]
    module.optimizers = lambda: optimizers  # pyright: ignore[reportAttributeAccessIssue]
    module.lr_schedulers = list  # pyright: ignore[reportAttributeAccessIssue]
    module.manual_backward = lambda loss: (loss * math.inf).backward()
    before = {name: value.clone() for name, value in vlm.model.state_dict().items()}
    with pytest.raises(NotFinite, match="step 1: the gradient norm is nan"):
        module.training_step(batch, 0)
    assert all(torch.equal(value, before[name]) for name, value in vlm.model.state_dict().items())
    assert module.version == 0 and all(value.grad is None for value in vlm.model.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"advantage": broken_advantage}, "the loss is nan and the gradient norm is nan"),
        ({"advantage": partial(broken_advantage, value=math.inf)}, "the loss is "),
        ({"loss": broken_loss, "kl": 0.0}, "the gradient norm is (nan|inf)"),
        ({"optimizer": partial(adamw, learning_rate=1e30)}, "outputs are not numbers|the loss is nan"),
    ],
)
def test_grpo_stops_too(fresh, problems, tmp_path, changes, words):
    from openvlt.reward.reward import Reward

    sizes = {"steps": 3, "group_size": 4, "prompts_per_rollout": 4, "prompts_per_update": 2, "micro_batch": 4}
    settings = algorithm(
        fit=LOOP, reward=Reward({"parity": parity}, {"parity": 1.0}), max_new_tokens=5, **{**sizes, **changes}
    )
    vlm = fresh()
    with pytest.raises(UserError, match=words) as error:
        train_grpo(settings, vlm, problems, reference=None, folder=tmp_path, seed=1, title="grpo1")
    if (tmp_path / "not_finite.pt").exists():
        content, results = replay_step(tmp_path / "not_finite.pt")
        assert not all(result.finite for result in results) and f"grpo1, step {content['step']}" in str(error.value)  # fmt: skip
    else:
        assert "outputs are not numbers" in str(error.value)


def test_the_embedded_model_is_not_cached_when_its_training_breaks(tmp_path, problems):
    training = SFT(
        LOOP, PromptStyle(), partial(adamw, learning_rate=1e30), constant, batch_size=4, micro_batch=4
    )
    sizes = TinyConfig(hidden=32, layers=1, heads=1, vision_layers=1)
    lessons = [Trace(problem, f"<answer>{problem.answer}</answer>") for problem in problems]
    tiny = TinyModel(
        sizes=sizes,
        cache=str(tmp_path),
        corpus=lambda: ["red green"] * 4,
        lessons=lambda seed: lessons,
        training=training,
    )
    with pytest.raises(UserError, match="base, step 2: the loss is") as error:
        tiny.base_path()
    (folder,) = tmp_path.iterdir()
    assert "-training-" in folder.name and str(folder / "not_finite.pt") in str(error.value)
    assert not replay_step(folder / "not_finite.pt")[1][0].finite


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_replay_computes_the_step_again(fresh, problems, tmp_path, dropout):
    """Dropout draws the same: the random generator's state is in the file."""
    vlm = fresh()
    config = LoraConfig(r=4, lora_dropout=dropout, target_modules=["q_proj"], init_lora_weights=False)
    vlm = VLM(add_adapter(vlm.model, config).train(), vlm.processor, vlm.path)
    traces = [Trace(problem, f"<answer>{problem.answer}</answer>") for problem in problems[:4]]
    module = SFTModule(vlm, Optimisation(partial(adamw), constant), 3, 2)  # pyright: ignore
    parts = list(module.split(Renderer(vlm.processor, PromptStyle()).sft_batch(traces, 64)))
    random = torch.random.get_rng_state()
    losses = [float(sft_loss(vlm, part)[0]) for part in parts]
    error = NotFinite(step=7, values={"loss": math.nan}, learning_rates=[0.1], vlm=vlm, loss=sft_loss, parts=parts, random=random)  # fmt: skip
    content, results = replay_step(error.save(tmp_path))
    assert content["step"] == 7 and [result.loss for result in results] == losses
    assert all(result.finite for result in results)


def test_a_replay_of_nothing_is_one_sentence(tmp_path, capsys):
    assert replay([str(tmp_path / "none.pt")]) == 2 and replay([]) == 2
    assert "there is no such file" in (err := capsys.readouterr().err) and len(err.splitlines()) == 2


@pytest.mark.parametrize("generator", [PrefixGenerator(), HFGenerator()])
@pytest.mark.parametrize("greedy", [True, False])
def test_rollouts_of_a_model_of_nan_are_refused(fresh, mixed, render, generator, greedy):
    vlm = fresh()
    with torch.no_grad():
        vlm.core.model.language_model.norm.weight[0] = torch.nan
    with pytest.raises(UserError, match="the model's outputs are not numbers.*too large for float32"):
        generator.generate(vlm, mixed, render(mixed), Sampling(max_new_tokens=4, greedy=greedy), 0)


class Planted:
    """What runs code when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.touch, (self.place,)


def test_a_file_that_no_run_wrote_is_not_opened(tmp_path, capsys):
    file = tmp_path / "not_finite.pt"
    torch.save(Planted(tmp_path / "opened"), file)
    assert replay([str(file)]) == 2
    assert "wasn't written by a run of this user" in capsys.readouterr().err
    assert not (tmp_path / "opened").exists()
