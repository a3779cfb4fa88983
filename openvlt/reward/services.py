"""Services for reward terms: responses of policy or reference, a judge, an encoder of images and texts.

Equal requests are answered once per rollout batch. A term that uses a service which the configuration doesn't
give raises UserError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from openvlt import distributed
from openvlt.data.prompts import conversation_text
from openvlt.errors import UserError
from openvlt.reward.contract import read_numbers, read_texts
from openvlt.types import Problem

if TYPE_CHECKING:
    from openvlt.serving.protocol import ChatRequest, Reply


@runtime_checkable
class ChatServer(Protocol):
    """A server of chat requests, such as `openvlt.serving.client.Server`."""

    def ask(self, asks: list[ChatRequest], /) -> list[Reply]: ...


Judge = ChatServer | Callable[[list[str]], Sequence[str]]  # a server, or texts -> texts
Encoder = Callable[
    [Sequence[Any], Sequence[str]], Tensor
]  # images, texts -> cosine similarity of each pair, (N,)
TextGenerator = Callable[[Sequence[Problem], str], list[str]]  # problems, model -> one greedy response each


@dataclass(frozen=True)
class Services:
    """What a reward term may use beside the rollouts; None where the configuration gives nothing."""

    text_generator: TextGenerator | None = None
    judge: Judge | None = None
    encoder: Encoder | None = None
    _responses: dict[Any, str] = field(default_factory=dict, repr=False)
    _replies: dict[str, str] = field(default_factory=dict, repr=False)

    def generate(self, problems: Sequence[Problem], model: str = "policy") -> list[str]:
        """Responses of the `policy` or the `reference`, one per problem."""
        if model not in ("policy", "reference"):
            raise UserError(f"services: model={model!r} can't write; it is policy or reference")
        if self.text_generator is None:
            raise UserError(
                "a reward term wants to generate, and nobody writes here; it works inside grpo only"
            )
        keys = [(model, conversation_text(problem), problem.images and problem.id) for problem in problems]
        rows = zip(keys, problems, strict=True)
        if new := {key: problem for key, problem in rows if key not in self._responses}:
            responses = self.text_generator(list(new.values()), model)
            self._responses.update(zip(new, responses, strict=True))
        return [self._responses[key] for key in keys]

    def ask(self, texts: Sequence[str]) -> list[str]:
        """The judge's reply to each text. Raises UserError without a judge, or when one stays unanswered."""
        if self.judge is None:
            raise UserError(
                "a reward term asks a judge, and there is none; give grpo.judge=<a server or a callable "
                "texts -> texts>"
            )
        if new := [text for text in dict.fromkeys(texts) if text not in self._replies]:
            # one rank asks for all
            replies = distributed.broadcast(ask_judge(self.judge, new) if distributed.is_main() else [])
            self._replies.update(zip(new, replies, strict=True))
        return [self._replies[text] for text in texts]

    def embed(self, images: Sequence[Any], texts: Sequence[str]) -> Tensor:
        """Cosine similarity of each image and text: (N,). Raises UserError without an encoder."""
        if self.encoder is None:
            raise UserError(
                "a reward term compares images with texts, and there is no encoder; give "
                "grpo.encoder=<callable>"
            )
        found = self.encoder(images, texts)
        return read_numbers(found, "grpo.encoder", len(texts), what="images and texts", nan=False)


def ask_judge(judge: Judge, texts: list[str]) -> list[str]:
    """The judge's most likely reply to each text. Raises UserError when a server leaves one unanswered."""
    if not isinstance(judge, ChatServer):
        return read_texts(judge(texts), "grpo.judge", len(texts))
    from openvlt.serving.protocol import ChatRequest

    options = {"max_tokens": 16, "temperature": 0}
    requests = [ChatRequest([{"role": "user", "content": text}], options) for text in texts]
    replies = judge.ask(requests)
    if failed := [reply.error for reply in replies if reply.error]:
        raise UserError(
            f"the judge left {len(failed)} of {len(texts)} asks unanswered ({failed[0]}); a lost reply is no "
            "reward of 0"
        )
    return read_texts([reply.text for reply in replies], "the judge", len(texts))
