"""The phases of a study's stages, from its settings: what each device does, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from openvlt.data.sources.base import Selection
from openvlt.duration.work import (
    Messages,
    Phase,
    Shapes,
    Texts,
    answer_flop,
    count_messages,
    forward_flop,
    prompt_flop,
    tower_flop,
    update_flop,
)
from openvlt.grpo.algorithm import GRPO
from openvlt.grpo.collect.plan import largest_group, total_draw
from openvlt.iteration.stages import (
    DistillStage,
    EvaluateBase,
    GRPOStage,
    ReleasedTraces,
    SFTStage,
    Stage,
    override_fields,
)
from openvlt.memory.estimate import MemoryPlan
from openvlt.model.strategy import Strategy
from openvlt.rollout.hf import HFGenerator
from openvlt.rollout.prefix import PrefixGenerator
from openvlt.rollout.vllm import VLLMGenerator
from openvlt.sft.module import SFT

SERVED_ROWS = 256  # answers that a vLLM server works on at a time, as long as nobody says another number
OPTIMISER_BYTES = 28  # AdamW in 32 bits reads a weight, its gradient and two states, and writes three of them


@dataclass
class StageWork:
    """A stage's phases on each device, and sentences on what they leave out."""

    name: str
    phases: list[Phase] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class StudyWork:
    """Counts the work of a study's stages on each of `devices` devices."""

    plan: MemoryPlan
    evaluation: Any
    strategy: Strategy
    devices: int

    @property
    def shapes(self) -> Shapes:
        """Those of the model that is trained."""
        return Shapes.of(self.plan.vlm, self.plan.settings.gradient_checkpointing is True)

    @property
    def messages(self) -> Messages:
        """What the strategy sends."""
        return count_messages(self.shapes, self.strategy, self.devices)

    def stages(self, stages: dict[str, Stage]) -> list[StageWork]:
        """The work of each stage, in their order."""
        traces: dict[str, float | None] = {}
        return [self._stage(name, stage, traces) for name, stage in stages.items()]

    def _stage(self, name: str, stage: Stage, traces: dict[str, float | None]) -> StageWork:
        work = StageWork(name)
        if isinstance(stage, DistillStage):
            amount = stage.select.limit
            traces[name] = None if amount is None else amount * self.plan.expected.kept
            self._distill(work, stage, amount)
            return work
        if isinstance(stage, ReleasedTraces):
            traces[name] = stage.select.limit
            return work
        if isinstance(stage, SFTStage):
            self._sft(work, override_fields(self.plan.sft, stage.settings, name), _add_up(stage, traces))
        elif isinstance(stage, GRPOStage):
            grpo, there = override_fields(self.plan.grpo, stage.settings, name), stage.select.limit
            if stage.episodes is not None and there is None:
                work.left_out.append("GRPO: how many problems an episode has isn't known")
            else:
                self._grpo(work, replace(grpo, steps=stage.count_steps(grpo, there or 0)))
            if stage.difficulty_filter is not None:
                self._ask(work, "filter", stage.difficulty_filter, stage.select)
        else:
            assert isinstance(stage, EvaluateBase)
        self._ask(work, "evaluation", self.evaluation, self.evaluation.selection)
        return work

    def _texts(self, problems: float, group: int, most: int) -> Texts:
        """One device's share of so many problems of the expected sizes."""
        plan = self.plan
        image = plan.expected.images * plan.side**2
        length = max(1.0, plan.expected.length * most)
        return Texts(ceil(problems / self.devices), group, plan.expected.text + image, image, length, most)

    def _ask(self, work: StageWork, title: str, asked: Any, selection: Selection) -> None:
        """Answers to the problems of a selection, by an evaluation or a difficulty filter."""
        if (amount := selection.limit) is None:
            work.left_out.append(f"{title}: its selection names no amount")
            return
        sampling = asked.sampling
        texts = self._texts(amount, sampling.n, sampling.max_new_tokens)
        work.phases += self._generate(title, asked.generator, texts, work)

    def _generate(self, title: str, generator: Any, texts: Texts, work: StageWork) -> list[Phase]:
        """The phases of one rollout."""
        known = (PrefixGenerator, HFGenerator, VLLMGenerator)
        if not isinstance(generator, known):
            work.left_out.append(f"{title}: {type(generator).__name__} isn't known here")
            return []
        shapes, shared = self.shapes, isinstance(generator, PrefixGenerator | VLLMGenerator)
        once = texts if shared else replace(texts, problems=texts.rows, group=1)
        before = Phase(
            f"{title}: prompts",
            tower_flop(shapes, once) + prompt_flop(shapes, once),
            sent=self.messages.gather,
        )
        read_prompts = texts.problems if isinstance(generator, PrefixGenerator) else texts.rows
        moved = shapes.kv_bytes * texts.tokens * (read_prompts * texts.prompt + texts.rows * texts.tokens / 2)
        if isinstance(generator, VLLMGenerator):  # a row that ends makes place for another
            steps = max(1.0, texts.rows / SERVED_ROWS) * texts.tokens
            most, launches = steps + texts.most - texts.tokens, 0
        else:
            batches = ceil(texts.problems / max(1, generator.max_rows // texts.group))
            steps, most, launches = batches * texts.tokens, batches * texts.most, shapes.layers
        step_bytes = shapes.per_token * shapes.weight_bytes
        return [
            before,
            Phase(
                f"{title}: decoding",
                answer_flop(shapes, texts),
                moved,
                steps=steps,
                most_steps=most,
                step_bytes=step_bytes,
                launches=launches,
            ),
        ]

    def _distill(self, work: StageWork, stage: DistillStage, amount: int | None) -> None:
        if amount is None:
            work.left_out.append("traces: the selection names no amount")
            return
        distillation = stage.distillation
        writers = [
            ("captions", distillation.caption, 1),
            ("chains", distillation.reason, distillation.samples),
        ]
        for title, writer, samples in writers:
            if writer is None:
                continue
            if not writer.local:
                work.left_out.append(f"{title}: another model writes them")
                continue
            texts = self._texts(amount, samples, writer.max_new_tokens)
            work.phases += self._generate(title, writer.generator, texts, work)

    def _sft(self, work: StageWork, sft: SFT, traces: float | None) -> None:
        if traces is None:
            work.left_out.append("SFT: the number of its traces isn't known")
            return
        texts = self._texts(sft.batch_size, 1, sft.max_tokens)
        flop = update_flop(self.shapes, texts)
        if not self.shapes.tower_learns:
            flop += tower_flop(self.shapes, texts)
        work.phases += self._steps("SFT", flop, ceil(texts.rows / sft.micro_batch), sft.steps(ceil(traces)))

    def _grpo(self, work: StageWork, grpo: GRPO) -> None:
        rollouts = ceil(grpo.steps / grpo.updates)
        drawn = total_draw(grpo.rollout_plan, grpo.group_size, grpo.steps)
        learned = largest_group(grpo.rollout_plan, grpo.group_size, grpo.steps)
        texts = self._texts(grpo.prompts_per_rollout, drawn, grpo.max_new_tokens)
        work.phases += [
            phase.repeat(rollouts) for phase in self._generate("rollout", grpo.generator, texts, work)
        ]
        if grpo.ahead:
            work.left_out.append("what rollout.ahead=1 saves by learning meanwhile")
        scored = replace(texts, group=learned)
        if passes := len(grpo.scoring_passes) + len(grpo.view_passes):
            flop = forward_flop(self.shapes, scored)
            work.phases.append(Phase("scoring", flop, sent=self.messages.gather, times=rollouts * passes))
        step = self._texts(grpo.prompts_per_update, learned, grpo.max_new_tokens)
        parts = ceil(step.problems / max(1, grpo.micro_batch // learned))
        work.phases += self._steps("update", update_flop(self.shapes, step), parts, grpo.steps)

    def _steps(self, title: str, flop: float, parts: int, times: int) -> Iterator[Phase]:
        """So many optimiser steps, of so many micro-batches on each device."""
        shares = 1 if self.strategy.shard == "none" else max(1, self.devices // self.strategy.replicas)
        sent = parts * self.messages.per_part + self.messages.per_step
        yield Phase(title, flop, sent=sent, times=times)
        yield Phase("optimiser", moved=OPTIMISER_BYTES * self.shapes.learned / shares, times=times)


def _add_up(stage: SFTStage, traces: dict[str, float | None]) -> float | None:
    """The traces that a stage learns from; None where one of its sources isn't known."""
    there = [traces.get(name) for name in stage.traces]
    known = [count for count in there if count is not None]
    if len(known) < len(there):
        return None if stage.amount is None else float(stage.amount)
    return min(sum(known), stage.amount or float("inf"))
