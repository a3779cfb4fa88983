"""Prompts of benchmark protocols: words around a row's columns, images before the text or at their marks."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from string import ascii_uppercase
from typing import Any

from openvlt.data.image_places import place_images
from openvlt.data.prompts import PromptStyle
from openvlt.errors import UserError
from openvlt.types import Problem

OPTION_LETTERS = ascii_uppercase
QUESTION_IN_IMAGE = "Answer the question shown in the image."


def fill_template(template: str, **values: Any) -> str:
    """The template with its `{names}` filled in one pass: values are not filled again, other braces stay."""
    return re.sub(r"\{(\w+)\}", lambda mark: str(values.get(mark[1], mark[0])), template)


@dataclass(frozen=True)
class PromptTemplate:
    """A protocol's whole prompt: `choice` for questions with options, `open` for others (None: `choice`).

    Only `{question}`, `{options}` and the names of a problem's `meta` are filled in; other braces stay. An
    option is written as `option`, options are joined by `between`. With `listed`, the options of
    `meta["listed"]` are taken: those that are letters only, because the image shows them, aren't repeated.
    `marks` is a regular expression whose first group is an image's number: images then stand at their marks.
    """

    choice: str
    open: str | None = None
    option: str = "({letter}) {text}"
    between: str = "\n"
    listed: bool = False
    marks: str | None = None

    def __call__(self, problem: Problem) -> Problem:
        """The problem with its whole prompt as the question, and no options left to write."""
        options = problem.meta.get("listed", ()) if self.listed else problem.choices or ()
        template = self.choice if options or self.open is None else self.open
        lines = [
            self.option.replace("{letter}", OPTION_LETTERS[i]).replace("{text}", option)
            for i, option in enumerate(options)
        ]
        values = {**problem.meta, "question": problem.question, "options": self.between.join(lines)}
        prompt = fill_template(template, **values)
        return replace(problem, question=prompt, choices=None, images=self._images(problem, prompt))

    def style(self, style: PromptStyle) -> PromptStyle:
        """The style that such a prompt is rendered in, given the configured one."""
        return template_style(self.marks, style)

    def _images(self, problem: Problem, prompt: str) -> tuple[Any, ...]:
        """The images in the order of their marks; each once, in its place, if a mark names a missing one."""
        if self.marks is None:
            return problem.images
        numbers = [int(number) for number in re.findall(self.marks, prompt)]
        if not numbers or not all(1 <= number <= len(problem.images) for number in numbers):
            return problem.images
        return tuple(problem.images[number - 1] for number in numbers)


@dataclass(frozen=True)
class ProjectPrompt:
    """The project's own prompt: the question, its options and the configured instruction, as in training.

    `meta["shown"]` takes the question's place where a benchmark shows something else than it scores. Options
    are written unless `meta["lists_options"]` is False. Images stand at their marks, as in training, if each
    image has one; else first.
    """

    def __call__(self, problem: Problem) -> Problem:
        choices = problem.choices if problem.meta.get("lists_options", True) else None
        shown = replace(problem, question=problem.meta.get("shown", problem.question), choices=choices)
        try:
            (question, *options), images = place_images([shown.question, *(choices or ())], problem.images)
        except UserError:
            return shown
        return replace(shown, question=question, choices=choices and tuple(options), images=images)

    def style(self, style: PromptStyle) -> PromptStyle:
        """The configured style."""
        return style


def template_style(marks: str | None, style: PromptStyle) -> PromptStyle:
    """The style of a template, which holds all words itself; images stand at `marks` if there are any."""
    if marks is None:
        return PromptStyle(max_tokens=style.max_tokens)
    return InterleavedStyle(max_tokens=style.max_tokens, marks=marks)


@dataclass(frozen=True)
class InterleavedStyle(PromptStyle):
    """A prompt style with images at their marks; if marks and images differ in number, images stand first."""

    marks: str = ""

    def messages(self, problem: Problem) -> list[dict[str, Any]]:
        """See `PromptStyle.messages`."""
        texts = re.split(re.sub(r"\((?!\?)", "(?:", self.marks), problem.question)
        if len(texts) != len(problem.images) + 1:
            return super().messages(problem)
        parts: list[dict[str, Any]] = []
        for index, text in enumerate(texts):
            parts += [{"type": "image"}] if index else []
            parts += [{"type": "text", "text": text}] if text else []
        turns: list[dict[str, Any]] = []
        if self.system:
            turns.append({"role": "system", "content": [{"type": "text", "text": self.system}]})
        return [*turns, {"role": "user", "content": parts}]
