"""Who writes captions and chains: what each is shown, and that its answers don't depend on their batch mates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from openvlt.data.prompts import PromptStyle, question_text
from openvlt.distill.cut import keep_whole
from openvlt.distill.pipeline import run_distillation
from openvlt.distill.select import keep_every_trace, keep_shortest
from openvlt.distill.settings import Distillation
from openvlt.distill.writers.base import Question
from openvlt.distill.writers.local import LocalWriter
from openvlt.distill.writers.scripted import ScriptedWriter
from openvlt.errors import UserError
from openvlt.serving.protocol import Reply, Usage
from openvlt.types import Completion, Problem
from tests.distill.test_pipeline import ids


class Recorder:
    """A generator that gives one caption per problem and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown = []

    def generate(self, vlm, problems, prompts, sampling, seed) -> list[Completion]:
        self.shown.append((list(problems), prompts, sampling))
        return [Completion((1,), f" caption of {p.id} \n", True) for p in problems for _ in range(sampling.n)]


def write_groups(
    writer,
    vlm,
    problems: Sequence[Problem],
    samples: int,
    seed: int,
    captions: Sequence[str | None] | None = None,
) -> list[list[Reply]]:
    captions = [None] * len(problems) if captions is None else captions
    asked = [
        Question(problem, caption, tuple(range(samples)))
        for problem, caption in zip(problems, captions, strict=True)
    ]
    replies = [reply for _, _, reply in writer.write(vlm, iter(asked), samples, seed, Usage())]
    return [replies[start : start + samples] for start in range(0, len(replies), samples)]


def test_the_reasoner_sees_caption_and_question_and_nothing_else(vlm, mixed, tmp_path):
    secret = [replace(problem, answer="SECRET", choices=("one", "other")) for problem in mixed]
    generator, calls = Recorder(), []

    def reasoner(*given, **more) -> str:
        assert not more
        calls.append(given)
        return f"<answer>SECRET</answer>{given[2].random()}"

    captioner = LocalWriter(generator, PromptStyle(), max_new_tokens=9, greedy=True)
    settings = Distillation(
        ScriptedWriter(reasoner), keep_whole, keep_every_trace, caption=captioner, samples=3
    )
    run_distillation(settings, vlm, secret, folder=tmp_path, seed=1)
    assert (
        len(calls) == 12 and len({given[2].random() for given in calls}) == 12
    )  # chains of a caption differ
    for index, given in enumerate(calls):
        problem = secret[index // 3]
        assert given[:2] == (f"caption of {problem.id}", question_text(problem)) and len(given) == 3
        assert "SECRET" not in repr(given)
    ((asked, prompts, sampling),) = generator.shown
    assert [p.question for p in asked] == ["Describe the image."] * 4 and sampling.greedy and sampling.n == 1
    text = vlm.tokenizer.batch_decode(prompts.ids_PL)
    assert all("Describe the image." in each and "SECRET" not in each and "red" not in each for each in text)
    assert prompts.images_P.tolist() == [1, 0, 2, 1]


def test_a_chain_does_not_depend_on_its_batch(mixed):
    writer = ScriptedWriter(lambda caption, question, rng: f"{caption} {rng.random()}")
    whole = write_groups(writer, None, mixed, 3, 1, ["seen"] * 4)
    assert (
        write_groups(writer, None, mixed[2:3], 3, 1, ["seen"])
        == whole[2:3]
        != write_groups(writer, None, mixed[2:3], 3, 2, ["seen"])
    )
    with pytest.raises(UserError, match="reasons over captions, but this distillation makes none"):
        write_groups(writer, None, mixed, 3, 1)


def test_a_model_that_looks_is_asked_as_configured_and_unfinished_answers_are_no_candidates(
    vlm, mixed, tmp_path
):
    class Half:
        def generate(self, vlm, problems, prompts, sampling, seed) -> list[Completion]:
            assert (sampling.n, sampling.temperature, sampling.top_p, sampling.greedy) == (2, 0.7, 0.9, False)
            return [
                Completion((1,), f"<answer>{p.answer}</answer>{k}", p.id != "two" and k == 0)
                for p in problems
                for k in range(2)
            ]

    writer = LocalWriter(Half(), PromptStyle(), temperature=0.7, top_p=0.9, batch=3)
    assert [[reply.finished for reply in group] for group in write_groups(writer, vlm, mixed, 2, 0)] == [
        [True, False],
        [True, False],
        [False] * 2,
        [True, False],
    ]
    settings = Distillation(writer, keep_whole, keep_shortest, samples=2)
    counts = run_distillation(settings, vlm, mixed, folder=tmp_path, seed=0)
    assert (counts["correct"], counts["unfinished"], counts["traces"]) == (3, 5, 3) and ids(tmp_path) == [
        "one",
        "none",
        "wide",
    ]


def test_a_model_of_ones_own_reads_captions(vlm, mixed):
    """`model` is loaded for the writer alone; with a caption it is shown no image."""

    class Other:
        path = "other"

        def load(self):
            return vlm

    generator = Recorder()
    writer = LocalWriter(generator, PromptStyle(instruction="Think."), model=Other())
    write_groups(writer, None, mixed[:1], 1, 0, ["A red bar of 3."])
    ((asked, prompts, _),) = generator.shown
    assert (
        not writer.local
        and asked[0].question == "Description:\nA red bar of 3.\n\nQuestion:\nWhat is red?"
        and asked[0].images == ()
    )
    assert prompts.images_P.tolist() == [0]
