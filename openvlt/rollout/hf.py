"""Generation by Hugging Face's `generate`, one row per completion: slower, for every family that has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from openvlt.model.load import VLM
from openvlt.model.shared_prefix.vision_features import forward_inputs
from openvlt.rollout.base import Sampling, generating, row_uniforms
from openvlt.rollout.sampling import check_outputs, next_tokens
from openvlt.rollout.stopping import StopConditions
from openvlt.types import Completion, Problem, Prompts


@dataclass(frozen=True)
class HFGenerator:
    """`conf/rollout/hf.yaml`: generates at most `max_rows` completions at a time."""

    max_rows: int = 64

    def generate(
        self, vlm: VLM, problems: Sequence[Problem], prompts: Prompts, sampling: Sampling, seed: int
    ) -> list[Completion]:
        """See `Generator`. Seeds, draws and bans are those of `PrefixGenerator`."""
        completions: list[Completion] = []
        per_batch = max(1, self.max_rows // sampling.n)
        for start in range(0, len(problems), per_batch):
            rows = list(range(start, min(start + per_batch, len(problems))))
            part = [problems[row] for row in rows]
            repeated = prompts.select([row for row in rows for _ in range(sampling.n)]).to(vlm.device)
            draws = None
            if not sampling.greedy:
                draws = torch.from_numpy(row_uniforms(part, sampling, seed)).to(vlm.device)
            with generating(vlm.model):
                completions += _generate(vlm, repeated, sampling, draws)
        return completions


class _ChooseToken(LogitsProcessor):
    """Chooses the next token with `next_tokens` and leaves `generate` no other; keeps its log-probability."""

    def __init__(
        self, vlm: VLM, prompt_tokens: int, sampling: Sampling, draws_NT: torch.Tensor | None
    ) -> None:
        self.vlm, self.banned_V = vlm, vlm.banned_V()
        self.prompt_tokens, self.sampling = prompt_tokens, sampling
        self.draws_NT = draws_NT
        self.logp: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.prompt_tokens
        uniform = None if self.draws_NT is None else self.draws_NT[:, step]
        tokens, logp = next_tokens(scores, uniform, self.banned_V, self.sampling)
        if step == 0:
            check_outputs(self.vlm, logp)
        self.logp.append(logp)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


class _StopRows(StoppingCriteria):
    def __init__(self, stops: StopConditions, prompt_tokens: int) -> None:
        self.stops, self.prompt_tokens = stops, prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: object, **rest: object) -> torch.Tensor:
        return self.stops.find_ended_rows(input_ids[:, self.prompt_tokens :])


def _generate(
    vlm: VLM, prompts: Prompts, sampling: Sampling, draws_NT: torch.Tensor | None
) -> list[Completion]:
    width = prompts.ids_PL.shape[1]
    choose, stops = _ChooseToken(vlm, width, sampling, draws_NT), StopConditions(vlm, sampling.stop)
    output = vlm.core.generate(
        input_ids=prompts.ids_PL,
        attention_mask=prompts.mask_PL,
        **forward_inputs(vlm, prompts),
        do_sample=False,
        max_new_tokens=sampling.max_new_tokens,
        logits_processor=LogitsProcessorList([choose]),
        stopping_criteria=StoppingCriteriaList([_StopRows(stops, width)]),
        repetition_penalty=1.0,
        temperature=None,
        top_p=None,
        top_k=None,
    )
    logp_NT = torch.stack(choose.logp, 1)
    check_outputs(vlm, logp_NT)
    return _make_completions(vlm, stops, output[:, width:].tolist(), logp_NT.tolist())


def _make_completions(
    vlm: VLM, stops: StopConditions, rows: list[list[int]], logp: list[list[float]]
) -> list[Completion]:
    """Completions of rows up to and with the token that ends them."""
    completions = []
    for row, values in zip(rows, logp, strict=True):
        end = stops.length_of(row)
        ids = tuple(row[:end])
        text = vlm.tokenizer.decode(row[:end], skip_special_tokens=True)
        completions.append(Completion(ids, text, stops.is_finished(ids), tuple(values[:end])))
    return completions
