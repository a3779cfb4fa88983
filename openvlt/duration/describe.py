"""The time of a run as text: hours by stage on one kind of GPU, and hours and GPU hours on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from openvlt.config.build import build
from openvlt.duration.gpus import BEST, GPUS, MIDDLE, WORST, Efficiency
from openvlt.duration.study import StageWork, StudyWork
from openvlt.duration.work import Phase
from openvlt.errors import UserError
from openvlt.iteration.runner import Study
from openvlt.memory.advice import STRATEGIES, fits
from openvlt.memory.estimate import MemoryPlan
from openvlt.model.strategy import Strategy
from openvlt.trainer.devices import process_count

GPU_COUNTS = (1, 8, 64, 512)  # of GPUs, beside the run's own number
HOUR = 3600.0


@dataclass(frozen=True, eq=False)
class TimePlan:
    """A study's hours on any number of any GPU of `GPUS`."""

    plan: MemoryPlan
    study: Study
    evaluation: object
    strategy: Strategy

    def chosen_strategy(self, gpu: str, count: int) -> Strategy | None:
        """The strategy of a run on these GPUs, `auto` decided; None where the run doesn't fit."""
        wanted = [self.strategy]
        if self.strategy.shard == "auto":
            wanted = [STRATEGIES["replicate"], STRATEGIES["shard"]]
        for strategy in wanted:
            if fits(self.plan.peak_bytes(strategy, count), GPUS[gpu].memory):
                return strategy
        return None

    def work(self, strategy: Strategy, count: int) -> list[StageWork]:
        """What each of so many devices does in each stage."""
        return StudyWork(self.plan, self.evaluation, strategy, count).stages(dict(self.study.stages))

    def hours(self, gpu: str, count: int, share: Efficiency = MIDDLE) -> float | None:
        """Hours of all stages; None where the run doesn't fit."""
        strategy = self.chosen_strategy(gpu, count)
        if strategy is None:
            return None
        phases = [phase for stage in self.work(strategy, count) for phase in stage.phases]
        return sum(phase.seconds(GPUS[gpu], share, count) for phase in phases) / HOUR


def describe_time(config: DictConfig, plan: MemoryPlan) -> str:
    """The estimate of time as text, or in a sentence why there is none."""
    gpu, count = plan.expected.gpu, process_count(config.trainer.devices)
    if gpu not in GPUS:
        raise UserError(f"expected.gpu={gpu} isn't known; choose from {', '.join(GPUS)}")
    try:
        study = build(config.iteration, "iteration")
    except UserError as error:
        return f"no time is planned: {error}"
    plan_of_time = TimePlan(
        plan, study, build(config.evaluation, "evaluation"), build(config.strategy, "strategy")
    )
    if not any(stage.phases for stage in plan_of_time.work(Strategy("none"), 1)):
        return "no time is planned: no stage names the amount of its rows"
    return "\n".join([*_stage_table(plan_of_time, gpu, count), "", *_gpu_table(plan_of_time, count)])


def _stage_table(times: TimePlan, gpu: str, count: int) -> list[str]:
    """Hours of each stage on this kind and number of GPUs, and what its time goes to."""
    strategy = times.chosen_strategy(gpu, count)
    if strategy is None:
        return [f"hours by stage aren't given: the run doesn't fit {count} x {gpu}"]
    stages = times.work(strategy, count)
    expected = times.plan.expected
    lines = [
        f"hours on {count} x {gpu}, not measured: answers have {100 * expected.length:g} % of their limit on "
        f"average, {100 * expected.kept:g} % of the problems leave a trace",
        f"{'stage':<14}{'best':>8}{'middle':>8}{'worst':>8}  what takes it in the middle case",
    ]
    lines += [_line(stage.name, stage.phases, gpu, count) for stage in stages]
    phases = [phase for stage in stages for phase in stage.phases]
    lines += [_line("together", phases, gpu, count), f"most limited by: {_limit(phases, gpu, count)}"]
    left_out: dict[str, list[str]] = {}
    for stage in stages:
        for what in stage.left_out:
            left_out.setdefault(what, []).append(stage.name)
    return lines + [f"not counted: {what} ({', '.join(names)})" for what, names in left_out.items()]


def _line(name: str, phases: Sequence[Phase], gpu: str, count: int) -> str:
    """One stage's hours and the shares of its phases."""
    cases = (BEST, MIDDLE, WORST)
    hours = [sum(phase.seconds(GPUS[gpu], case, count) for phase in phases) / HOUR for case in cases]
    parts: dict[str, float] = {}
    for phase in phases:
        seconds = phase.seconds(GPUS[gpu], MIDDLE, count)
        parts[phase.name] = parts.get(phase.name, 0.0) + seconds
    return f"{name:<14}" + "".join(f"{_number(value):>8}" for value in hours) + f"  {_shares(parts)}".rstrip()


def _shares(parts: Mapping[str, float]) -> str:
    """The largest parts in percent, those of at least 5 %."""
    whole = sum(parts.values())
    large = sorted(
        ((value, name) for name, value in parts.items() if value >= 0.05 * whole > 0), reverse=True
    )
    return ", ".join(f"{name} {100 * value / whole:.0f} %" for value, name in large)


def _limit(phases: Sequence[Phase], gpu: str, count: int) -> str:
    """What resources the middle case spends its time on, in percent."""
    needs: dict[str, float] = {}
    for phase in phases:
        for name, seconds in phase.limits(GPUS[gpu], MIDDLE, count).items():
            needs[name] = needs.get(name, 0.0) + seconds
    return _shares(needs)


def _number(hours: float) -> str:
    """Two digits; a dash for nothing."""
    return "-" if not hours else f"{hours:.0f}" if hours >= 10 else f"{hours:.2g}"


def _gpu_table(times: TimePlan, own: int) -> list[str]:
    """Middle hours by kind and number of GPUs, and what they cost; `-` where the run doesn't fit."""
    counts, expected = sorted({*GPU_COUNTS, own}), times.plan.expected
    lines = [f"{'hours':<8}" + "".join(f"{count:>8} x" for count in counts)]
    for gpu in GPUS:
        hours = [times.hours(gpu, count) or 0.0 for count in counts]
        lines.append(f"{gpu:<8}" + "".join(f"{_number(value):>10}" for value in hours))
        if gpu == expected.gpu and expected.price is not None:
            prices = [value * count * expected.price for value, count in zip(hours, counts, strict=True)]
            lines.append(f"{'  cost':<8}" + "".join(f"{_number(price):>10}" for price in prices))
    return [
        *lines,
        "middle case; -: the run doesn't fit. docs/scale.md has the formula and what it leaves out",
    ]
