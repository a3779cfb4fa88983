"""Generation that runs the vision tower and the prompt once per problem, then decodes all its completions together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openvlt.errors import UserError
from openvlt.model.cpu_linear import prepack_weights
from openvlt.model.load import VLM
from openvlt.model.shared_prefix.attention import PackedAttention
from openvlt.model.shared_prefix.forward import encode, language, packed_hidden, shares_prefix
from openvlt.model.shared_prefix.packing import pack
from openvlt.rollout.base import Sampling, generating, row_uniforms
from openvlt.rollout.kv_cache import PrefixCache
from openvlt.rollout.sampling import next_tokens
from openvlt.rollout.stopping import Stops
from openvlt.types import Completion, Problem, Prompts

LEAVE = 8  # finished rows leave when they are an eighth of the batch: moving the others costs something, too


@dataclass(frozen=True)
class PrefixGenerator:
    """`conf/rollout/prefix.yaml`. `max_rows` completions are decoded at a time; finished rows leave the batch."""

    max_rows: int = 256

    def generate(
        self, vlm: VLM, problems: Sequence[Problem], prompts: Prompts, sampling: Sampling, seed: int
    ) -> list[Completion]:
        """See `Generator`. Raises UserError for a model family whose hooks aren't known."""
        if not shares_prefix(vlm.core):
            raise UserError(
                f"rollout=prefix doesn't know model type {vlm.core.config.model_type!r}; use rollout=hf"
            )
        per_batch = max(1, self.max_rows // sampling.n)
        completions: list[Completion] = []
        with generating(vlm.model), prepack_weights(vlm.core):
            for start in range(0, len(problems), per_batch):
                rows = range(start, min(start + per_batch, len(problems)))
                part = [problems[row] for row in rows]
                # nobody else holds these: a part's pixels go when its prefill is over, its cache before the next part's
                completions += _Decoding(vlm, prompts.select(rows).to(vlm.device), sampling).run(part, seed)
        return completions


class _Decoding:
    """State of one decoding batch: rows that still run, their cache, and what every row has said so far."""

    def __init__(self, vlm: VLM, prompts: Prompts, sampling: Sampling) -> None:
        self.vlm, self.sampling = vlm, sampling
        self.embed, self.head = vlm.core.get_input_embeddings(), vlm.core.get_output_embeddings()
        self.banned_V = vlm.banned_V()
        self.stops = Stops(vlm, sampling.stop)
        self._prefill(prompts)

    def _prefill(self, prompts: Prompts) -> None:
        """One packed pass over the prompts; every row then starts from the logits of its prompt's last token."""
        size, device, n = len(prompts), self.vlm.device, self.sampling.n
        first_P1, own_P = (
            torch.ones(size, 1, dtype=torch.long, device=device),
            torch.arange(size, device=device),
        )
        packing, prefix = pack(prompts.mask_PL, first_P1, own_P), encode(self.vlm, prompts)
        attend = PackedAttention(packing, keep=True)
        hidden_SD = packed_hidden(self.vlm, prefix, first_P1, own_P, packing, attend)
        place_S = packing.prompt_tokens[packing.order_S]
        kept = [
            tuple(_padded(half, place_S, prompts.mask_PL) for half in attend.kept.pop(layer))
            for layer in sorted(attend.kept)
        ]
        self.cache = PrefixCache(kept, prompts.mask_PL, n, self.sampling.max_new_tokens)
        self.position_N = prefix.next_P.repeat_interleave(n, 0)
        self.logits_NV = self.head(hidden_SD[packing.source_M]).repeat_interleave(n, 0)

    def run(self, problems: Sequence[Problem], seed: int) -> list[Completion]:
        rows = torch.arange(len(self.logits_NV), device=self.vlm.device)
        said = torch.full((len(rows), self.sampling.max_new_tokens), self.vlm.pad_id, device=self.vlm.device)
        logp, length = (
            torch.zeros(said.shape, device=said.device),
            torch.full((len(rows),), said.shape[1], device=said.device),
        )
        draws = (
            None
            if self.sampling.greedy
            else torch.from_numpy(row_uniforms(problems, self.sampling, seed)).to(said.device)
        )
        going = torch.ones_like(rows, dtype=torch.bool)
        for step in range(said.shape[1]):
            uniform = None if draws is None else draws[rows, step]
            tokens, token_logp = next_tokens(self.logits_NV, uniform, self.banned_V, self.sampling)
            said[rows, step], logp[rows, step] = (
                tokens,
                token_logp,
            )  # what a finished row says more is cut off below
            stopped = self.stops.ended_rows(said[rows, : step + 1] if self.sampling.stop else tokens[:, None])
            length[rows[stopped & going]] = step + 1
            going &= ~stopped
            running = int(going.sum())
            if not running or step == said.shape[1] - 1:
                break
            if LEAVE * (len(rows) - running) >= len(rows):
                (stay,) = going.nonzero(as_tuple=True)
                rows, tokens, going = rows[stay], tokens[stay], going[stay]
                self.cache.keep(stay)
                self.position_N = self.position_N[stay]
            self._feed(tokens)
        return self._completions(said.tolist(), logp.tolist(), length.tolist())

    def _feed(self, tokens_N: Tensor) -> None:
        positions_3N1 = self.position_N[None, :, None].expand(3, -1, -1)
        hidden_N1D = language(self.vlm.core, self.embed(tokens_N[:, None]), positions_3N1, self.cache)
        self.cache.advance()
        self.position_N = self.position_N + 1
        self.logits_NV = self.head(hidden_N1D[:, 0])

    def _completions(
        self, said: list[list[int]], logp: list[list[float]], length: list[int]
    ) -> list[Completion]:
        ids = [tuple(row[:size]) for row, size in zip(said, length, strict=True)]
        texts = self.vlm.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [
            Completion(
                token_ids=row, text=text, finished=self.stops.finishes(row), logp=tuple(values[: len(row)])
            )
            for row, text, values in zip(ids, texts, logp, strict=True)
        ]


def _padded(half_KSD: Tensor, place_S: Tensor, mask_PL: Tensor) -> Tensor:
    """Keys or values of the packed prompts as (P,K,L,D)."""
    kinds, _, size = half_KSD.shape
    padded = half_KSD.new_zeros(kinds, mask_PL.numel(), size).index_copy_(1, place_S, half_KSD)
    return padded.view(kinds, *mask_PL.shape, size).transpose(0, 1).contiguous()
