"""What a reward term may ask of others: the policy or the reference to write, a judge to judge, an encoder to compare.

Equal requests are answered once per rollout. A term that asks for a service the config doesn't give gets a sentence that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.types import Problem


@dataclass(frozen=True)
class Services:
    """`write(problems, model)` gives one greedy response to each; `judge` is a server (`openvlt.serving.client.Server`) or any callable
    texts -> texts; `encoder(images, texts)` gives the cosine similarity of each pair, (N,).
    """

    write: Callable[[Sequence[Problem], str], list[str]] | None = None
    judge: Any = None
    encoder: Callable[[Sequence[Any], Sequence[str]], Tensor] | None = None
    _written: dict[Any, str] = field(default_factory=dict, repr=False)
    _judged: dict[str, str] = field(default_factory=dict, repr=False)

    def generate(self, problems: Sequence[Problem], model: str = "policy") -> list[str]:
        """Responses of the `policy` or the `reference`, one per problem."""
        if model not in ("policy", "reference"):
            raise UserError(f"services: model={model!r} can't write; it is policy or reference")
        if self.write is None:
            raise UserError(
                "a reward term wants to generate, and nobody writes here; it works inside grpo only"
            )
        keys = [(model, problem.question, problem.images and problem.id) for problem in problems]
        new = {key: problem for key, problem in zip(keys, problems, strict=True) if key not in self._written}
        if new:
            self._written.update(zip(new, self.write(list(new.values()), model), strict=True))
        return [self._written[key] for key in keys]

    def ask(self, texts: Sequence[str]) -> list[str]:
        """The judge's reply to each text. Raises UserError without a judge, or when one stays unanswered."""
        if self.judge is None:
            raise UserError(
                "a reward term asks a judge, and there is none; give grpo.judge=<a server or a callable texts -> texts>"
            )
        if new := [text for text in dict.fromkeys(texts) if text not in self._judged]:
            replies = distributed.broadcast(
                self._replies(new) if distributed.is_main() else []
            )  # one rank asks for all
            self._judged.update(zip(new, replies, strict=True))
        return [self._judged[text] for text in texts]

    def _replies(self, texts: list[str]) -> list[str]:
        if not hasattr(self.judge, "ask"):
            return list(self.judge(texts))
        from openvlt.serving.protocol import ChatRequest

        replies = self.judge.ask(
            [
                ChatRequest([{"role": "user", "content": text}], {"max_tokens": 16, "temperature": 0})
                for text in texts
            ]
        )
        if failed := [reply.error for reply in replies if reply.error]:
            raise UserError(
                f"the judge left {len(failed)} of {len(texts)} asks unanswered ({failed[0]}); a lost reply is no reward of 0"
            )
        return [reply.text for reply in replies]

    def embed(self, images: Sequence[Any], texts: Sequence[str]) -> Tensor:
        """Similarity of each image and text: (N,)."""
        if self.encoder is None:
            raise UserError(
                "a reward term compares images with texts, and there is no encoder; give grpo.encoder=<callable>"
            )
        return self.encoder(images, texts)
