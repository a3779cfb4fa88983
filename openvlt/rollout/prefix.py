"""Generation with one pass of vision tower and prompt per problem; its completions are decoded together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openvlt.errors import UserError
from openvlt.model.cpu_linear import prepack_weights
from openvlt.model.families import shares_prefix
from openvlt.model.load import VLM
from openvlt.model.shared_prefix.attention import PackedAttention
from openvlt.model.shared_prefix.forward import encode_prompts, packed_hidden, run_language_model
from openvlt.model.shared_prefix.packing import pack
from openvlt.rollout.base import Sampling, generating, row_uniforms
from openvlt.rollout.kv_cache import PrefixCache
from openvlt.rollout.sampling import check_outputs, next_tokens
from openvlt.rollout.stopping import StopConditions
from openvlt.types import Completion, Problem, Prompts

DROP_SHARE = 8  # finished rows leave when they are an eighth of the batch: moving the others costs time, too


@dataclass(frozen=True)
class PrefixGenerator:
    """`conf/rollout/prefix.yaml`: decodes at most `max_rows` completions at a time; finished rows leave."""

    max_rows: int = 256

    def problems_at_once(self, n: int) -> int:
        """How many problems a decoding batch holds when each has `n` completions."""
        return max(1, self.max_rows // n)

    def generate(
        self, vlm: VLM, problems: Sequence[Problem], prompts: Prompts, sampling: Sampling, seed: int
    ) -> list[Completion]:
        """See `Generator`. Raises UserError for a model family that doesn't share prefixes."""
        if not shares_prefix(vlm.core):
            raise UserError(
                f"rollout=prefix doesn't know model type {vlm.core.config.model_type!r}; use rollout=hf"
            )
        per_batch = self.problems_at_once(sampling.n)
        completions: list[Completion] = []
        with generating(vlm.model), prepack_weights(vlm.core):
            for start in range(0, len(problems), per_batch):
                rows = range(start, min(start + per_batch, len(problems)))
                part = [problems[row] for row in rows]
                # unnamed: a part's pixels are freed after its prefill, its cache before the next part's
                completions += _DecodingBatch(vlm, prompts.select(rows).to(vlm.device), sampling).run(
                    part, seed
                )
        return completions


class _DecodingBatch:
    """State of one decoding batch: rows that still run, their cache, and their next logits."""

    def __init__(self, vlm: VLM, prompts: Prompts, sampling: Sampling) -> None:
        self.vlm, self.sampling = vlm, sampling
        self.embed, self.head = vlm.core.get_input_embeddings(), vlm.core.get_output_embeddings()
        self.banned_V = vlm.banned_V()
        self.stops = StopConditions(vlm, sampling.stop)
        self._prefill(prompts)

    def _prefill(self, prompts: Prompts) -> None:
        """Runs the prompts in one packed pass; a row starts from the logits of its prompt's last token."""
        size, device, n = len(prompts), self.vlm.device, self.sampling.n
        first_P1 = torch.ones(size, 1, dtype=torch.long, device=device)
        own_P = torch.arange(size, device=device)
        packing, prefix = pack(prompts.mask_PL, first_P1, own_P), encode_prompts(self.vlm, prompts)
        attend = PackedAttention(packing, keep=True)
        hidden_SD = packed_hidden(self.vlm, prefix, first_P1, own_P, packing, attend)
        place_S = packing.prompt_tokens[packing.order_S]
        keys_and_values = [
            tuple(_pad_prompts(half, place_S, prompts.mask_PL) for half in attend.kept.pop(layer))
            for layer in sorted(attend.kept)
        ]
        self.cache = PrefixCache(keys_and_values, prompts.mask_PL, n, self.sampling.max_new_tokens)
        self.position_N = prefix.next_P.repeat_interleave(n, 0)
        self.logits_NV = self.head(hidden_SD[packing.source_M]).repeat_interleave(n, 0)

    def run(self, problems: Sequence[Problem], seed: int) -> list[Completion]:
        """Decodes until every row has ended."""
        count, width, device = len(self.logits_NV), self.sampling.max_new_tokens, self.vlm.device
        rows = torch.arange(count, device=device)
        ids_NT = torch.full((count, width), self.vlm.pad_id, device=device)
        logp_NT = torch.zeros(ids_NT.shape, device=device)
        length_N = torch.full((count,), width, device=device)
        draws_NT = None
        if not self.sampling.greedy:
            draws_NT = torch.from_numpy(row_uniforms(problems, self.sampling, seed)).to(device)
        running = torch.ones_like(rows, dtype=torch.bool)
        for step in range(width):
            uniform = None if draws_NT is None else draws_NT[rows, step]
            tokens, token_logp = next_tokens(self.logits_NV, uniform, self.banned_V, self.sampling)
            if step == 0:
                check_outputs(self.vlm, token_logp)
            # tokens of a finished row that hasn't left yet lie beyond its length
            ids_NT[rows, step], logp_NT[rows, step] = tokens, token_logp
            ended = self.stops.find_ended_rows(
                ids_NT[rows, : step + 1] if self.sampling.stop else tokens[:, None]
            )
            length_N[rows[ended & running]] = step + 1
            running &= ~ended
            left = int(running.sum())
            if not left or step == width - 1:
                break
            if DROP_SHARE * (len(rows) - left) >= len(rows):
                (stay,) = running.nonzero(as_tuple=True)
                rows, tokens, running = rows[stay], tokens[stay], running[stay]
                self.cache.keep(stay)
                self.position_N = self.position_N[stay]
            self._feed(tokens)
        check_outputs(self.vlm, logp_NT)
        return self._make_completions(ids_NT.tolist(), logp_NT.tolist(), length_N.tolist())

    def _feed(self, tokens_N: Tensor) -> None:
        """Runs the model on one new token per row."""
        positions_3N1 = self.position_N[None, :, None].expand(3, -1, -1)
        embeds_N1D = self.embed(tokens_N[:, None])
        hidden_N1D = run_language_model(self.vlm.core, embeds_N1D, positions_3N1, self.cache)
        self.cache.advance()
        self.position_N = self.position_N + 1
        self.logits_NV = self.head(hidden_N1D[:, 0])

    def _make_completions(
        self, rows: list[list[int]], logp: list[list[float]], lengths: list[int]
    ) -> list[Completion]:
        ids = [tuple(row[:length]) for row, length in zip(rows, lengths, strict=True)]
        texts = self.vlm.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [
            Completion(row, text, self.stops.is_finished(row), tuple(values[: len(row)]))
            for row, text, values in zip(ids, texts, logp, strict=True)
        ]


def _pad_prompts(half_KSD: Tensor, place_S: Tensor, mask_PL: Tensor) -> Tensor:
    """Keys or values of the packed prompts as (P,K,L,D)."""
    heads, _, size = half_KSD.shape
    padded = half_KSD.new_zeros(heads, mask_PL.numel(), size).index_copy_(1, place_S, half_KSD)
    return padded.view(heads, *mask_PL.shape, size).transpose(0, 1).contiguous()
