"""How a protocol puts a question: fixed words around the row's own columns, images first or where their marks stand."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

from openvlt.data.prompts import PromptStyle
from openvlt.types import Problem


def fill_template(prompt: str, **values: Any) -> str:
    """A prompt with its `{names}` filled at once: what is filled in is not looked at again, and other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda mark: str(values.get(mark[1], mark[0])), prompt)


@dataclass(frozen=True)
class PromptTemplate:
    """`choice` and `open` are the whole prompt for questions with and without options (`open` None: the same).

    `{question}`, `{options}` and the names of a problem's `meta` are filled in, nothing else in braces is. An option is written as
    `option`, options are joined by `between`. With `listed`, options that are only letters (they stand in the picture) are left out.
    With `marks`, a regular expression whose first group is an image's number, images stand where their marks do.
    """

    choice: str
    open: str | None = None
    option: str = "({letter}) {text}"
    between: str = "\n"
    listed: bool = False
    marks: str | None = None

    def __call__(self, problem: Problem) -> Problem:
        """The problem with its whole prompt as the question and no options left to write."""
        options = problem.meta.get("listed", ()) if self.listed else problem.choices or ()
        template = self.choice if options or self.open is None else self.open
        lines = [
            self.option.replace("{letter}", ascii_uppercase[i]).replace("{text}", option)
            for i, option in enumerate(options)
        ]
        values = {**problem.meta, "question": problem.question, "options": self.between.join(lines)}
        prompt = fill_template(template, **values)
        return replace(problem, question=prompt, choices=None, images=self._images(problem, prompt))

    def _images(self, problem: Problem, prompt: str) -> tuple[Any, ...]:
        """The images in the order of their marks; all of them, once, when a mark names none that is there."""
        if self.marks is None:
            return problem.images
        numbers = [int(number) for number in re.findall(self.marks, prompt)]
        if not numbers or not all(1 <= number <= len(problem.images) for number in numbers):
            return problem.images
        return tuple(problem.images[number - 1] for number in numbers)


IN_THE_IMAGE = "Answer the question shown in the image."


@dataclass(frozen=True)
class ProjectPrompt:
    """The project's own prompt: the question, its options and the configured instruction, as in training.

    Where the benchmark shows something else than what it scores, `meta["shown"]` stands for the question, and options are written
    only if `meta["lists_options"]`.
    """

    def __call__(self, problem: Problem) -> Problem:
        choices = problem.choices if problem.meta.get("lists_options", True) else None
        return replace(problem, question=problem.meta.get("shown", problem.question), choices=choices)


@dataclass(frozen=True)
class InterleavedStyle(PromptStyle):
    """A prompt style whose images stand at their marks, if there are as many marks as images; else before the text."""

    marks: str = ""

    def messages(self, problem: Problem) -> list[dict[str, Any]]:
        """See `PromptStyle.messages`."""
        texts = re.split(re.sub(r"\((?!\?)", "(?:", self.marks), problem.question)
        if len(texts) != len(problem.images) + 1:
            return super().messages(problem)
        parts: list[dict[str, Any]] = []
        for index, words in enumerate(texts):
            parts += [{"type": "image"}] if index else []
            parts += [{"type": "text", "text": words}] if words else []
        system = (
            [{"role": "system", "content": [{"type": "text", "text": self.system}]}] if self.system else []
        )
        return [*system, {"role": "user", "content": parts}]
