"""A model behind a server as a writer of captions and chains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from openvlt import distributed
from openvlt.data.prompts import PromptStyle
from openvlt.distill.writers.base import CAPTION_TEMPLATE, Question
from openvlt.model.load import VLM
from openvlt.serving.client import Server
from openvlt.serving.image_payload import image_url
from openvlt.serving.protocol import ChatRequest, Reply, Usage
from openvlt.storage.ledger import content_key


@dataclass(frozen=True)
class ServedWriter:
    """A model behind a `server`.

    `template` joins caption and question. Images are sent within the request, at most `max_pixels` large.
    """

    server: Server
    prompt: PromptStyle
    max_new_tokens: int = 2048
    temperature: float = 1.0
    top_p: float = 1.0
    max_pixels: int | None = 1048576
    template: str = CAPTION_TEMPLATE
    local: bool = field(default=False, init=False)

    @property
    def random(self) -> bool:
        """Whether two samples can differ."""
        options = {"temperature": self.temperature, **self.server.options}
        return options["temperature"] != 0 and options.get("top_k") != 1

    def signature(self, vlm: VLM | None) -> Any:
        """See `TextWriter`."""
        options = dict(self.server.options)
        return [
            "served",
            self.server.models,
            repr(self.prompt),
            self.max_new_tokens,
            self.temperature,
            self.top_p,
            options,
            self.template,
        ]

    def write(
        self, vlm: VLM | None, questions: Iterable[Question], samples: int, seed: int, usage: Usage
    ) -> Iterator[tuple[Question, int, Reply]]:
        """See `TextWriter`; one request per missing sample, each with its own seed, sent by the main rank."""
        if distributed.world_size() == 1:  # the usual case holds no reply in memory
            yield from self._request(questions, seed, usage)
            return
        replies: list[tuple[str, int, Reply]] = []
        if distributed.is_main():
            for question, sample, reply in self._request(questions, seed, usage):
                replies.append((question.problem.id, sample, reply))
                yield question, sample, reply
            distributed.broadcast(replies)
        else:
            by_id = {question.problem.id: question for question in questions}
            for name, sample, reply in distributed.broadcast(replies):
                yield by_id[name], sample, reply

    def _request(
        self, questions: Iterable[Question], seed: int, usage: Usage
    ) -> Iterator[tuple[Question, int, Reply]]:
        under_way: dict[str, tuple[Question, int]] = {}

        def requests() -> Iterator[ChatRequest]:
            for question in questions:
                messages = self.messages(question)
                for sample in question.missing:
                    key = content_key(question.problem.id, sample)
                    under_way[key] = question, sample
                    yield ChatRequest(messages, self.options(question, sample, seed), key)

        for request, reply in self.server.stream(requests(), usage):
            yield *under_way.pop(request.key), reply

    def options(self, question: Question, sample: int, seed: int) -> dict[str, Any]:
        """The decoding options of one request; a server that honours `seed` answers it alike again."""
        request_seed = int(content_key(seed, question.problem.id, sample)[:7], 16)
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_new_tokens,
            "seed": request_seed,
        }

    def messages(self, question: Question) -> list[dict[str, Any]]:
        """The conversation in the protocol's form; a message without an image is plain text."""
        prompt, messages = question.as_prompt(self.template), []
        for message in self.prompt.messages(prompt):
            images = iter(prompt.images)
            parts = [
                self._image_part(next(images), prompt.id) if part["type"] == "image" else part
                for part in message["content"]
            ]
            plain = len(parts) == 1 and parts[0]["type"] == "text"
            messages.append({"role": message["role"], "content": parts[0]["text"] if plain else parts})
        return messages

    def _image_part(self, image: Any, row: str) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": image_url(image, row, self.max_pixels)}}
