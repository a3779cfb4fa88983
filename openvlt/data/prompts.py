"""The one way from a `Problem` to model input, for SFT, rollouts, distillation and evaluation alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

import torch
from jinja2 import TemplateError

from openvlt.data.errors import PromptTooLong
from openvlt.data.image_places import split_places
from openvlt.data.image_tokens import count_image_tokens
from openvlt.data.images import open_images
from openvlt.errors import UserError
from openvlt.types import Problem, Prompts, SFTBatch, Trace


@dataclass(frozen=True)
class PromptStyle:
    """The words around a question: a `system` turn before it, an `instruction` after it; both may be empty.

    A system turn of the row's own follows `system` in the same turn. `max_tokens` limits the prompt.
    """

    system: str = ""
    instruction: str = ""
    max_tokens: int = 6144

    def messages(self, problem: Problem) -> list[dict[str, Any]]:
        """The conversation up to the response, in the form that chat templates and servers take."""
        text = question_text(problem)
        if self.instruction:
            text = f"{text}\n{self.instruction}"
        turns = [*problem.turns, ("user", text)]
        if self.system:
            own = turns.pop(0)[1] if turns[0][0] == "system" else ""
            turns.insert(0, ("system", f"{self.system}\n\n{own}" if own else self.system))
        first = [role for role, _ in turns].index("user")
        pieces = split_places([text for _, text in turns], len(problem.images), first)
        return [
            {"role": role, "content": _interleave(texts)}
            for (role, _), texts in zip(turns, pieces, strict=True)
        ]


def _interleave(texts: Sequence[str]) -> list[dict[str, Any]]:
    """The parts of a turn: texts with an image between each two; empty texts are left out."""
    parts: list[dict[str, Any]] = []
    for index, text in enumerate(texts):
        parts += [{"type": "image"}] if index else []
        parts += [{"type": "text", "text": text}] if text else []
    return parts


def question_text(problem: Problem) -> str:
    """The question, with its options lettered below it; an option that is its own letter is that letter."""
    if not problem.choices:
        return problem.question
    if len(problem.choices) > len(ascii_uppercase):
        raise UserError(
            f"row {problem.id!r} has {len(problem.choices)} choices; {len(ascii_uppercase)} can be lettered"
        )
    options = [
        f"({letter})" if choice == letter else f"({letter}) {choice}"
        for letter, choice in zip(ascii_uppercase, problem.choices, strict=False)
    ]
    return "\n".join([problem.question, "Choices:", *options])


def conversation_text(problem: Problem) -> str:
    """The question as `question_text` gives it, after the turns before it, each with its role."""
    turns = [f"{role}: {text}" for role, text in problem.turns]
    return "\n\n".join([*turns, f"user: {question_text(problem)}"]) if turns else question_text(problem)


class Renderer:
    """Turns problems into padded tensors with one processor and one prompt style.

    Processed images are not kept: a loader's worker does this work once per problem and step.
    """

    def __init__(self, processor: Any, style: PromptStyle) -> None:
        self.processor, self.style = processor, style

    def text(self, problem: Problem) -> str:
        """The prompt as the model reads it, image marks not yet expanded.

        Raises UserError when the question spells a mark itself.
        """
        question = conversation_text(problem)
        if marks := [token for token in self.processor.tokenizer.all_special_tokens if token in question]:
            raise UserError(
                f"row {problem.id!r}: its text contains the model's own mark {marks[0]}; "
                "remove it from the row"
            )
        try:
            return self.processor.apply_chat_template(
                self.style.messages(problem), add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise UserError(
                f"row {problem.id!r}: the model's chat template takes no such conversation ({error}); "
                f"its turns are {', '.join(role for role, _ in problem.turns)}, user: leave the row out"
            ) from error

    def begins_itself(self, text: str) -> bool:
        """Whether the chat template wrote the token that a tokenizer may set at the beginning."""
        begin = self.processor.tokenizer.bos_token
        return begin is not None and text.startswith(begin)

    def prompts(self, problems: Sequence[Problem]) -> Prompts:
        """Left-padded prompts of these problems.

        Raises UserError for an unreadable image, one that the processor refuses, or a prompt over the limit.
        """
        images = [open_images(problem) for problem in problems]
        for problem, row in zip(problems, images, strict=True):
            count_image_tokens(self.processor, problem, [image.size for image in row])
        flat = [image for row in images for image in row]
        texts = [self.text(problem) for problem in problems]
        batch = self.processor(
            text=texts,
            images=flat or None,
            padding=True,
            return_tensors="pt",
            add_special_tokens=not self.begins_itself(texts[0]),
        )
        ids_PL, mask_PL = batch.pop("input_ids"), batch.pop("attention_mask")
        types_PL = batch.pop("mm_token_type_ids", torch.zeros_like(ids_PL))
        self._check_length(problems, mask_PL)
        vision = {name: value for name, value in batch.items() if torch.is_tensor(value)}
        return Prompts(ids_PL, mask_PL, types_PL, torch.tensor([len(row) for row in images]), vision)

    def _check_length(self, problems: Sequence[Problem], mask_PL: torch.Tensor) -> None:
        for problem, length in zip(problems, mask_PL.sum(1).tolist(), strict=True):
            if length > self.style.max_tokens:
                raise PromptTooLong(problem.id, length, self.style.max_tokens)

    def responses(
        self, texts: Sequence[str], max_tokens: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask (N,T) of responses with an end of turn, cut at `max_tokens`, right-padded."""
        tokenizer = self.processor.tokenizer
        # special tokens spelt out in a text stay text: <|image_pad|> has probability 0, an infinite loss
        plain = {"add_special_tokens": False, "split_special_tokens": True}
        rows = [tokenizer(text, **plain).input_ids + [tokenizer.eos_token_id] for text in texts]
        return pad_right([row[:max_tokens] for row in rows], tokenizer.pad_token_id)

    def sft_batch(self, traces: Sequence[Trace], max_tokens: int | None = None) -> SFTBatch:
        """Prompts and responses of traces; the loss is taken on the response tokens only."""
        ids_NT, mask_NT = self.responses([trace.response for trace in traces], max_tokens)
        return SFTBatch(self.prompts([trace.problem for trace in traces]), ids_NT, mask_NT)


def pad_right(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ragged token rows to ids and mask, both (N,T) and long; T is the longest row's length."""
    width = max((len(row) for row in rows), default=0)
    ids_NT = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask_NT = torch.zeros_like(ids_NT)
    for index, row in enumerate(rows):
        ids_NT[index, : len(row)] = torch.as_tensor(row)
        mask_NT[index, : len(row)] = 1
    return ids_NT, mask_NT
