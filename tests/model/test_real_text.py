"""Text of Qwen2.5-VL's own vocabulary, whose tags are several tokens: where it stops, how it is rewarded, cut and learned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from openvlt.data.prompts import Renderer, pad_right
from openvlt.distill.cut import cut_reflections
from openvlt.errors import UserError
from openvlt.reward.accuracy import Accuracy, EmptySummary
from openvlt.reward.reward import Reward
from openvlt.rollout.base import Sampling
from openvlt.rollout.hf import HFGenerator
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.rollout.stopping import StopConditions
from openvlt.rollout.vllm_requests import read_completions
from openvlt.sft.module import sft_loss
from openvlt.types import Completion, Problem, Rollouts, Trace
from tests.helpers.real_vocabulary import CHAINS, plain_logp, spell_tokens

END, PAD = 151_645, 151_643
STOP = ("</answer>",)


def test_a_tag_is_several_tokens_and_touches_its_neighbours(real):
    first, second = (spell_tokens(real, real.tokenizer(chain).input_ids) for chain in CHAINS)
    assert first[:3] == ["<th", "ink", ">The"] and first[-9:] == ["?</", "think", "><", "answer", ">", "5", ".</", "answer", ">"]  # fmt: skip
    assert second[-5:] == ["</", "answer", ">\n\n", "Done", "."]


def test_a_stop_string_ends_a_completion_at_the_token_that_completes_it(real):
    stops = StopConditions(real, STOP)
    ends = {CHAINS[0]: ">", CHAINS[1]: ">\n\n", "5</answer><": "><", "五。</answer>。": ">"}
    for text, last in ends.items():
        ids = real.tokenizer(text).input_ids
        size = stops.length_of(ids)
        assert spell_tokens(real, ids[:size])[-2:] == ["answer", last] and stops.is_finished(ids[:size])
        ended = [bool(stops.find_ended_rows(torch.tensor([ids[: place + 1]]))) for place in range(size)]
        assert ended == [False] * (size - 1) + [True]
    cut = real.tokenizer("<answer>5</answer").input_ids
    assert stops.length_of(cut) == len(cut) and not stops.is_finished(cut)
    assert stops.is_finished([*cut, END]) and stops.is_finished([*cut, PAD])


@pytest.mark.parametrize("stop", [(), STOP, ("三角形", ".\n"), ("</think>",)])
def test_both_generators_stop_alike(taught, rendered, asked, stop):
    sampling = Sampling(max_new_tokens=48, greedy=True, stop=stop)
    prompts = rendered.prompts(asked)
    one, other = (each.generate(taught, asked, prompts, sampling, 0) for each in (PrefixGenerator(), HFGenerator()))  # fmt: skip
    assert other == [replace(each, logp=pytest.approx(each.logp, abs=1e-4)) for each in one]
    for completion, chain in zip(one, CHAINS, strict=True):
        whole = [*taught.tokenizer(chain).input_ids, END]
        size = StopConditions(taught, stop).length_of(whole)
        assert completion.token_ids == tuple(whole[:size]) and completion.finished
        assert completion.text == taught.tokenizer.decode(whole[:size]).removesuffix("<|im_end|>")
    if stop == STOP:
        assert [each.text[-11:] for each in one] == ["5.</answer>", "</answer>\n\n"]
    cut = PrefixGenerator().generate(taught, asked, prompts, replace(sampling, max_new_tokens=5), 0)
    assert [each.finished for each in cut] == [False, "三角形" in stop]


def test_a_server_is_believed_where_a_tag_ends_a_completion(taught, asked):
    sampling = Sampling(max_new_tokens=48, greedy=True, stop=STOP)
    ids = taught.tokenizer(CHAINS[1]).input_ids
    ids = ids[: StopConditions(taught, STOP).length_of(ids)]
    choice = {
        "index": 0, "token_ids": ids, "logprobs": {"content": [{"logprob": -1.0}] * len(ids)},
        "finish_reason": "stop", "weight_versions": [{"version": "v"}],
    }  # fmt: skip
    answer = {"prompt_token_ids": [5], "choices": [choice]}
    (read,) = read_completions(taught, asked[1:], [[5]], [answer], sampling, "v")
    assert read.finished and read.text.endswith("<answer>12</answer>\n\n")
    choice["token_ids"], choice["logprobs"] = ids[:-1], {"content": [{"logprob": -1.0}] * (len(ids) - 1)}
    with pytest.raises(UserError, match="no stop token or string is at its end"):
        read_completions(taught, asked[1:], [[5]], [answer], sampling, "v")


def test_sampled_tokens_are_the_same_in_both_generators(real, rendered, mixed):
    sampling = Sampling(
        n=2, max_new_tokens=6, temperature=1.5, top_k=50
    )  # else rounding decides among so many
    one, other = (each.generate(real, mixed, rendered.prompts(mixed), sampling, 3) for each in (PrefixGenerator(), HFGenerator()))  # fmt: skip
    assert [(each.token_ids, each.text) for each in one] == [(each.token_ids, each.text) for each in other]
    drawn = [token for each in one for token in each.token_ids]
    assert len(set(drawn)) > 40 and max(drawn) > 100_000 and not real.banned_V()[drawn].any()


# --- rewards and cuts of decoded text -------------------------------------------------------------------------


def rollouts_of(rendered: Renderer, problems: list[Problem], completions: list[Completion]) -> Rollouts:
    ids_NT, mask_NT = pad_right([each.token_ids for each in completions], PAD)
    rows = len(completions)
    return Rollouts(
        problems=tuple(problems), completions=tuple(completions), prompts=rendered.prompts(problems),
        ids_NT=ids_NT, mask_NT=mask_NT, group_N=torch.arange(len(problems)).repeat_interleave(rows // len(problems)),
        origin_N=torch.zeros(rows).long(), view=("clean",) * rows, policy_version=0,
    )  # fmt: skip


def test_rewards_read_tags_that_were_split(taught, rendered, asked):
    reward = Reward({"accuracy": Accuracy(), "empty": EmptySummary()}, {"accuracy": 1.0, "empty": 0.5}, extraction="tag")  # fmt: skip
    for stop in ((), STOP):
        completions = PrefixGenerator().generate(taught, asked, rendered.prompts(asked), Sampling(1, 48, greedy=True, stop=stop), 0)  # fmt: skip
        scored = reward(rollouts_of(rendered, asked, completions))
        assert scored.rewards["accuracy"].tolist() == [1, 1]
        assert scored.rewards["empty"].tolist() == [-1, 0]  # nothing, and "So:", before the answer
    cut = PrefixGenerator().generate(taught, asked, rendered.prompts(asked), Sampling(1, 20, greedy=True), 0)
    assert reward(rollouts_of(rendered, asked, cut)).reward_N.tolist() == [0, 0]


def test_reflections_are_cut_out_of_decoded_text(real):
    for chain, kept in (
        (CHAINS[0], "<think>The sides are 3 and 4.</think><answer>5.</answer>"),
        (CHAINS[1], CHAINS[1]),
        ("<think>So 5.\n\nHmm, 五。</think>\n<answer>5</answer>", "<think>So 5.</think>\n<answer>5</answer>"),
        ("<think>Wait, no. 5?</think><answer>5</answer>", None),
    ):
        ids = [*real.tokenizer(chain).input_ids, END]
        assert cut_reflections(real.tokenizer.decode(ids, skip_special_tokens=True)) == kept


# --- SFT ------------------------------------------------------------------------------------------------------


def test_responses_come_back_as_they_were_and_are_cut_off_from_the_prompt(real, rendered, asked):
    call = '<tool_call>\n{"x": 1}\n</tool_call>'
    texts = [call, *CHAINS, "\n\n<think>\n", " 5", "", "a<|im_end|>b<|image_pad|>", "🙂五\n"]
    ids_NT, mask_NT = rendered.responses(texts)
    assert not real.banned_V()[ids_NT[mask_NT.bool()]].any()
    prompt = rendered.text(asked[1])
    for text, row, mask in zip(texts, ids_NT, mask_NT, strict=True):
        ids = row[mask.bool()].tolist()
        assert ids[-1] == END and END not in ids[:-1] and row[len(ids) :].eq(PAD).all()
        assert real.tokenizer.decode(ids[:-1]) == real.tokenizer.decode(ids, skip_special_tokens=True) == text
        joint = real.tokenizer(prompt + text).input_ids
        alike = text[:1] != "\n" and "<|" not in text
        assert (joint == real.tokenizer(prompt).input_ids + ids[:-1]) == alike
    called = ids_NT[0][mask_NT[0].bool()].tolist()
    assert [called[0], called[-2]] == real.tokenizer.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])


def test_the_loss_is_transformers_own_on_the_response(real, rendered, asked):
    batch = rendered.sft_batch([Trace(*pair) for pair in zip(asked, CHAINS, strict=True)])
    with torch.no_grad():
        loss, _ = sft_loss(real, (batch, int(batch.mask_NT.sum())))
        rows = zip(asked, batch.ids_NT, batch.mask_NT, strict=True)
        own = [plain_logp(real, rendered, problem, ids[mask.bool()]) for problem, ids, mask in rows]
    assert loss.item() == pytest.approx(-torch.cat(own).mean().item(), rel=1e-5)
