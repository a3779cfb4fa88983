"""SFT: the loss is the Hugging Face model's own, however a step is cut; prompts and padding take no part."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.errors import UserError
from openvlt.sft.loss import nll
from openvlt.sft.module import SFT, SFTModule
from openvlt.trainer.loop import TrainingLoop
from openvlt.trainer.module import Optimisation
from openvlt.trainer.optimizer import adamw, constant
from openvlt.types import Problem, Prompts, SFTBatch, Trace

RESPONSES = (
    "<think>I see 1.</think><answer>1</answer>",
    "5",
    "<answer>no</answer>",
    "red + green = 2, so <answer>4</answer>",
)


@pytest.fixture
def batch(vlm, mixed) -> SFTBatch:
    traces = [Trace(problem, response) for problem, response in zip(mixed, RESPONSES, strict=True)]
    return Renderer(vlm.processor, PromptStyle()).sft_batch(traces)


def module(model, micro_batch: int) -> SFTModule:
    return SFTModule(model, Optimisation(None, None), 1, micro_batch)


def total(made: SFTModule, batch: SFTBatch):
    results = [made.loss(part) for part in made.split(batch)]
    return sum(loss for loss, _ in results), sum(shares["entropy"] for _, shares in results)


def own_loss(model, batch: SFTBatch) -> torch.Tensor:
    """`model(labels=...)` on the same rows; banned tokens are taken out by their logits, as in scoring."""
    prompts = batch.prompts
    labels = torch.cat(
        [torch.full_like(prompts.ids_PL, -100), batch.ids_NT.masked_fill(batch.mask_NT == 0, -100)], 1
    )
    ban = torch.zeros(len(model.banned_V()), dtype=model.core.lm_head.weight.dtype).masked_fill(
        model.banned_V(), -1e9
    )
    hook = model.core.lm_head.register_forward_hook(lambda module, args, out: out + ban)
    try:
        return model.core(
            input_ids=torch.cat([prompts.ids_PL, batch.ids_NT], 1),
            attention_mask=torch.cat([prompts.mask_PL, batch.mask_NT], 1),
            mm_token_type_ids=torch.cat([prompts.token_type_PL, torch.zeros_like(batch.ids_NT)], 1),
            **prompts.vision,
            labels=labels,
        ).loss
    finally:
        hook.remove()


def test_nll_on_paper():
    logp = torch.tensor([[-1.0, -2.0, -50.0], [-3.0, -50.0, -50.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert nll(logp, mask, 3).item() == pytest.approx(2.0)
    assert nll(logp, mask, 12).item() == pytest.approx(0.5)  # a quarter of a larger step


def test_loss_and_gradients_equal_hugging_faces_own(fresh, batch, gradients, same_gradients):
    model = fresh(torch.float64)
    loss, _ = total(module(model, 4), batch)
    own = own_loss(model, batch)
    assert loss.item() == pytest.approx(
        own.item(), rel=1e-6
    )  # Hugging Face's cross entropy is taken in float32
    same_gradients(gradients(model.model, loss), gradients(model.model, own), 1e-5)


def test_any_split_gives_the_same_loss_and_gradients(fresh, batch, gradients, same_gradients):
    model = fresh(torch.float64)
    whole, entropy = total(module(model, 4), batch)
    expected = gradients(model.model, whole)
    assert [len(list(module(model, size).split(batch))) for size in (1, 2, 3, 4, 9)] == [4, 2, 2, 1, 1]
    for size in (1, 2, 3):
        loss, other = total(module(model, size), batch)
        assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
        assert other.item() == pytest.approx(entropy.item(), rel=1e-6)
        same_gradients(expected, gradients(model.model, loss), 1e-6)


def test_padding_and_order_are_inert(fresh, batch, gradients, same_gradients):
    model = fresh(torch.float64)
    whole, _ = total(module(model, 4), batch)
    expected = gradients(model.model, whole)
    p, order = batch.prompts, [2, 0, 3, 1]
    left = lambda value, fill: torch.cat([torch.full((4, 2), fill), value], 1)  # noqa: E731
    right = lambda value, fill: torch.cat([value, torch.full((4, 3), fill)], 1)  # noqa: E731
    wider = SFTBatch(
        Prompts(left(p.ids_PL, 5), left(p.mask_PL, 0), left(p.token_type_PL, 0), p.images_P, p.vision),
        right(batch.ids_NT, 8),
        right(batch.mask_NT, 0),
    )
    shuffled = SFTBatch(p.select(order), batch.ids_NT[order], batch.mask_NT[order])
    for other in (wider, shuffled):
        loss, _ = total(module(model, 4), other)
        assert loss.item() == pytest.approx(whole.item(), rel=1e-6)
        same_gradients(expected, gradients(model.model, loss), 1e-6)


def test_targets_are_the_response_and_its_end(vlm, batch):
    for response, ids, mask in zip(RESPONSES, batch.ids_NT, batch.mask_NT, strict=True):
        tokens = ids[mask.bool()].tolist()
        assert tokens[-1] == vlm.tokenizer.eos_token_id and vlm.tokenizer.decode(tokens[:-1]) == response
    assert Renderer(vlm.processor, PromptStyle()).responses(["red green blue red"], 3)[0].shape == (1, 3)


def test_every_tensor_of_a_part_is_on_the_modules_device(fresh, mixed, vlm):
    """Lightning leaves batches on the CPU here, so the split has to move them; `meta` stands for a GPU."""
    made = module(fresh(), 2)
    batch = Renderer(vlm.processor, PromptStyle()).sft_batch(
        [Trace(mixed[1], "5"), Trace(mixed[1], "<answer>5</answer>")]
    )
    made.to("meta")
    assert made.device.type == "meta"
    for part, _ in made.split(batch):
        assert {part.prompts.ids_PL.device.type, part.ids_NT.device.type, part.mask_NT.device.type} == {
            "meta"
        }


def sft(**changes) -> SFT:
    made = SFT(
        fit=TrainingLoop(accelerator="cpu", progress=False),
        prompt=PromptStyle(),
        optimizer=partial(adamw, learning_rate=5e-3),
        scheduler=constant,
        batch_size=2,
        micro_batch=2,
        warmup_ratio=0.0,
    )
    return replace(made, **changes)


def test_steps_count_every_trace_once_per_epoch():
    assert [sft(batch_size=4).steps(n) for n in (4, 5, 8, 9)] == [1, 2, 2, 3]
    assert sft(batch_size=4, epochs=3).steps(9) == 9


def test_training_learns_the_responses_and_keeps_frozen_weights(fresh, mixed, batch, tmp_path):
    from openvlt.model.load import freeze

    model = fresh()
    freeze(model.model, ("vision",))
    tower = {n: p.clone() for n, p in model.model.named_parameters() if not p.requires_grad}
    before, _ = total(module(model, 4), batch)
    traces = [Trace(problem, response) for problem, response in zip(mixed, RESPONSES, strict=True)]
    sft(epochs=12).train(model, traces, folder=tmp_path, seed=1)
    after, _ = total(module(model, 4), batch)
    assert after < 0.5 * before
    assert tower and all(torch.equal(dict(model.model.named_parameters())[n], p) for n, p in tower.items())


def test_too_few_traces_are_one_clear_sentence(fresh, mixed, tmp_path):
    with pytest.raises(
        UserError, match=r"sft1: batch_size=8 is larger than the data \(1 traces\); lower sft.batch_size"
    ):
        sft(batch_size=8).train(fresh(), [Trace(mixed[0], "1")], folder=tmp_path, seed=0, title="sft1")


def test_a_response_that_spells_a_mark_is_learned_as_text(vlm) -> None:
    """<|image_pad|> as a token has probability 0 and would make the loss infinite."""
    renderer = Renderer(vlm.processor, PromptStyle())
    ids_NT, mask_NT = renderer.responses(["a<|image_pad|>b"])
    assert not vlm.banned_V()[ids_NT[mask_NT.bool()]].any()
    assert vlm.tokenizer.decode(ids_NT[0, :-1]) == "a<|image_pad|>b"


def test_a_question_that_spells_a_mark_is_refused(vlm) -> None:
    problem = Problem("q7", "What is <|image_pad|>?", "1")
    with pytest.raises(UserError, match=r"row 'q7'.*<\|image_pad\|>"):
        Renderer(vlm.processor, PromptStyle()).prompts([problem])


def test_a_fault_found_by_a_worker_is_still_one_sentence(vlm, fresh, tmp_path: Path) -> None:
    from openvlt.trainer.module import StepModule

    class Counting(StepModule):
        def split(self, batch):
            return []

    settings = Optimisation(partial(adamw, learning_rate=1e-3), constant)

    def make(step: int):
        raise UserError("row 'q7': image x.png can't be read")

    fit = TrainingLoop(accelerator="cpu", progress=False, workers=1)
    with pytest.raises(UserError, match=r"^row 'q7': image x.png can't be read$"):
        fit.run(Counting(fresh(), settings, 2), make, tmp_path, title="sft", ahead=True)
