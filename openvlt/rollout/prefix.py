"""Generation that runs the vision tower and the prompt once per problem, then decodes all its completions together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from openvlt.model.forward import encode, shares_prefix
from openvlt.model.load import VLM
from openvlt.rollout.generator import Sampling, generating, row_uniforms
from openvlt.rollout.sample import next_tokens
from openvlt.types import Completion, Problem, Prompts, UserError


@dataclass(frozen=True)
class PrefixGenerator:
    """`conf/rollout/prefix.yaml`. `max_rows` completions are decoded at a time; finished rows leave the batch."""

    max_rows: int = 256

    def generate(
        self, vlm: VLM, problems: Sequence[Problem], prompts: Prompts, sampling: Sampling, seed: int
    ) -> list[Completion]:
        """See `Generator`. Raises UserError for a model family whose hooks aren't known."""
        if not shares_prefix(vlm.core):
            raise UserError(f"rollout=prefix doesn't know model type {vlm.core.config.model_type!r}; use rollout=hf")
        per_batch = max(1, self.max_rows // sampling.n)
        completions: list[Completion] = []
        for start in range(0, len(problems), per_batch):
            rows = range(start, min(start + per_batch, len(problems)))
            part = [problems[row] for row in rows]
            selected = prompts if len(rows) == len(prompts) else prompts.select(rows)
            with generating(vlm.model):
                completions += _Decoding(vlm, selected.to(vlm.device), sampling).run(part, seed)
        return completions


class _Decoding:
    """State of one decoding batch: rows that still run, their cache, and what every row has said so far."""

    def __init__(self, vlm: VLM, prompts: Prompts, sampling: Sampling) -> None:
        self.vlm, self.sampling = vlm, sampling
        self.language_model, self.head = vlm.core.model.language_model, vlm.core.get_output_embeddings()
        self.banned_V = vlm.banned_V()
        self.stop = torch.tensor(vlm.stop_ids, device=vlm.device)
        self._prefill(prompts)

    def _prefill(self, prompts: Prompts) -> None:
        prefix = encode(self.vlm, prompts)
        self.cache = DynamicCache(config=self.vlm.core.config.get_text_config())
        hidden = self.language_model(
            inputs_embeds=prefix.embeds_PLD,
            position_ids=prefix.positions_3PL,
            attention_mask=prefix.mask_PL,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        n = self.sampling.n
        self.cache.batch_repeat_interleave(n)
        self.mask = prefix.mask_PL.repeat_interleave(n, 0)
        self.position_N = prefix.next_P.repeat_interleave(n, 0)
        self.logits_NV = self.head(hidden).repeat_interleave(n, 0)

    def run(self, problems: Sequence[Problem], seed: int) -> list[Completion]:
        rows = torch.arange(len(self.logits_NV), device=self.vlm.device)
        said = torch.full((len(rows), self.sampling.max_new_tokens), self.vlm.pad_id, device=self.vlm.device)
        logp = torch.zeros(said.shape, device=said.device)
        length = torch.full((len(rows),), said.shape[1], device=said.device)
        draws = None if self.sampling.greedy else torch.from_numpy(row_uniforms(problems, self.sampling, seed))
        draws = draws if draws is None else draws.to(said.device)
        for step in range(said.shape[1]):
            uniform = None if draws is None else draws[rows, step]
            tokens, token_logp = next_tokens(self.logits_NV, uniform, self.banned_V, self.sampling)
            said[rows, step], logp[rows, step] = tokens, token_logp
            stopped = torch.isin(tokens, self.stop)
            length[rows[stopped]] = step + 1
            running = (~stopped).nonzero()[:, 0]
            if not len(running) or step == said.shape[1] - 1:
                break
            if len(running) < len(rows):
                rows, tokens = rows[running], tokens[running]
                self._keep(running)
            self._feed(tokens)
        return self._completions(said.tolist(), logp.tolist(), length.tolist())

    def _keep(self, running: Tensor) -> None:
        """Finished rows leave: nothing is computed for them any more."""
        self.cache.batch_select_indices(running)
        self.mask, self.position_N = self.mask[running], self.position_N[running]

    def _feed(self, tokens_N: Tensor) -> None:
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        embeds = self.vlm.core.get_input_embeddings()(tokens_N[:, None])
        hidden = self.language_model(
            inputs_embeds=embeds,
            position_ids=self.position_N[None, :, None].expand(3, -1, -1),
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        self.position_N = self.position_N + 1
        self.logits_NV = self.head(hidden)

    def _completions(self, said: list[list[int]], logp: list[list[float]], length: list[int]) -> list[Completion]:
        ids = [tuple(row[:size]) for row, size in zip(said, length, strict=True)]
        texts = self.vlm.tokenizer.batch_decode(ids, skip_special_tokens=True)
        stop = set(self.vlm.stop_ids)
        return [
            Completion(token_ids=row, text=text, finished=row[-1] in stop, logp=tuple(values[: len(row)]))
            for row, text, values in zip(ids, texts, logp, strict=True)
        ]
