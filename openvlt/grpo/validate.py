"""Checks of an algorithm: ranges of settings, columns and passes that exist, parts that go together.

What a part is like is declared by the part itself (`openvlt.grpo.parts.traits`), so a part of one's own is
checked as ours are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

from openvlt.config.validate import check_positive
from openvlt.errors import UserError
from openvlt.grpo.collect.columns import EXTRA, SCORED, check_requested_columns, requested_columns
from openvlt.grpo.collect.plan import largest_group
from openvlt.grpo.parts.schedules import (
    PARTS,
    check_coefficient,
    refuse_schedule,
    resolve_schedules,
)
from openvlt.grpo.parts.traits import has_trait, part_function
from openvlt.reward.reward import weighted_sum
from openvlt.rollout.base import check_judge
from openvlt.trainer.module import check_optimisation
from openvlt.trainer.optimizer import check_optimizer

if TYPE_CHECKING:
    from openvlt.grpo.algorithm import GRPO

DENOMINATORS = ("all", "kept", "selected")
SIZES = (
    *("steps", "group_size", "prompts_per_rollout", "prompts_per_update", "micro_batch"),
    *("temperature", "top_p", "max_new_tokens"),
)


def validate_algorithm(grpo: GRPO) -> None:
    """Raises UserError for a `GRPO` that can't be."""
    _check_denominator_and_kl(grpo)
    _check_numbers(grpo)
    _check_problem_filter(grpo)
    _check_sampler(grpo)
    _check_loss_numbers(grpo)
    _check_updates(grpo)
    _check_columns(grpo)
    _check_auxiliary_losses(grpo)
    _check_loss(grpo)
    _check_advantage(grpo)
    _check_group_filter(grpo)
    _check_resampling(grpo)
    _check_ahead(grpo)
    check_judge(grpo.generator, grpo.judge)
    for step in (0, grpo.steps - 1):  # schedules whose values no part takes are found now
        resolve_schedules([getattr(grpo, part) for part in PARTS if part != "kl"], step, grpo.steps)
        resolve_schedules(grpo.losses, step, grpo.steps)


# --- settings and their ranges -----------------------------------------------------------------------------


def _check_denominator_and_kl(grpo: GRPO) -> None:
    if grpo.denominator not in DENOMINATORS:
        raise UserError(
            f"grpo.denominator={grpo.denominator!r}; it is all (dropped groups count), or kept (they don't), "
            "or selected (only tokens whose weight isn't 0 count)"
        )
    check_coefficient("grpo.kl", grpo.kl, "0 switches the KL term off")
    if grpo.kl and "kl" in grpo.auxiliary_losses:
        raise UserError(
            "grpo.kl and grpo.auxiliary_losses.kl are two KL terms of one name; set grpo.kl=0, or call the "
            "other one differently"
        )


def _check_numbers(grpo: GRPO) -> None:
    for entry in fields(grpo):
        if entry.name not in PARTS:
            refuse_schedule(f"grpo.{entry.name}", getattr(grpo, entry.name))
    check_positive(grpo, "grpo", *SIZES)
    if grpo.top_p > 1:
        raise UserError(f"grpo.top_p={grpo.top_p}; it is above 0 and at most 1, which cuts nothing off")
    check_coefficient("grpo.transcripts", grpo.transcripts, "0 keeps none")
    check_optimisation("grpo", grpo.warmup_ratio, grpo.max_grad_norm)
    check_optimizer("grpo.optimizer", grpo.optimizer)


def _check_problem_filter(grpo: GRPO) -> None:
    """It is called with the columns alone: its other parameters are settings that the configuration gives."""
    if grpo.problem_filter is None:
        return
    for parameter in list(inspect.signature(grpo.problem_filter).parameters.values())[1:]:
        several = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not several:
            name = parameter.name
            raise UserError(f"grpo.problem_filter has no {name}; give +grpo.problem_filter.{name}=<value>")


def _check_sampler(grpo: GRPO) -> None:
    """Its own check of its settings, where it has one: now, and not when its stage begins."""
    check = getattr(part_function(grpo.sampler), "check_settings", None)
    if check is not None:
        check(**(grpo.sampler.keywords if isinstance(grpo.sampler, partial) else {}))


def _check_loss_numbers(grpo: GRPO) -> None:
    for step in (0, grpo.steps - 1):
        for name, value in _numbers(resolve_schedules(grpo.loss, step, grpo.steps)).items():
            check_coefficient(f"grpo.loss.{name}", value, "it bounds a ratio")
            if name == "dual" and not value > 1:
                raise UserError(
                    f"grpo.loss.dual={value}; it bounds ratios above 1, so it is above 1 itself, or null for "
                    "no bound"
                )


def _numbers(part: Any) -> dict[str, float]:
    """The numbers among the settings of a partial."""
    settings = part.keywords if isinstance(part, partial) else {}
    return {name: value for name, value in settings.items() if isinstance(value, (int, float))}


def _check_updates(grpo: GRPO) -> None:
    if grpo.prompts_per_rollout % grpo.prompts_per_update:
        raise UserError(
            f"grpo.prompts_per_rollout={grpo.prompts_per_rollout} is no multiple of grpo.prompts_per_update="
            f"{grpo.prompts_per_update}; whole groups go to each update"
        )


# --- columns and passes ------------------------------------------------------------------------------------


def _check_columns(grpo: GRPO) -> None:
    """Every column that a part requests exists when the part runs."""
    check_requested_columns("grpo.advantage", grpo.advantage, extra=EXTRA, later=("adv_NT",))
    check_requested_columns("grpo.group_filter", grpo.group_filter, later=(*SCORED, "adv_NT"))
    kinds: dict[str, Mapping[str, Callable[..., Any]]] = {
        "advantage_shaping": grpo.advantage_shaping,
        "metric_hooks": grpo.metric_hooks,
    }
    for kind, parts in kinds.items():
        for name, part in parts.items():
            check_requested_columns(f"grpo.{kind}.{name}", part)
            _check_view_setting(grpo, f"grpo.{kind}.{name}", part)


def _check_auxiliary_losses(grpo: GRPO) -> None:
    """Every pass that an auxiliary loss needs exists, and so do the columns that mark its tokens."""
    for name, loss in grpo.losses.items():
        where = f"grpo.auxiliary_losses.{name}"
        known = ("reference", "entropy", *grpo.view_passes)
        if missing := [need for need in loss.needs if need not in known]:
            raise UserError(
                f"{where} needs the pass {missing[0]!r}; grpo.view_passes has {sorted(grpo.view_passes)}"
            )
        for need in set(loss.needs) & set(grpo.view_passes):
            _check_pass_output(grpo, where, need, "logp")
        check_requested_columns(f"{where}.tokens", loss.tokens)


def _check_view_setting(grpo: GRPO, where: str, part: Callable[..., Any]) -> None:
    """A setting `view` or `noisy` of a part that reads scores names one of the passes."""
    read = {"logp": "logp", "stats": "sym_kl"}  # a column, and the output of a pass that it holds
    outputs = [output for column, output in read.items() if column in requested_columns(part)]
    for name, parameter in inspect.signature(part).parameters.items() if outputs else ():
        if name not in ("view", "noisy") or not isinstance(parameter.default, str):
            continue
        if parameter.default not in grpo.view_passes:
            raise UserError(
                f"{where}.{name}={parameter.default!r} is no pass; grpo.view_passes has "
                f"{sorted(grpo.view_passes)}"
            )
        for output in outputs:
            _check_pass_output(grpo, where, parameter.default, output)


def _check_pass_output(grpo: GRPO, where: str, name: str, output: str) -> None:
    """The pass `name` computes the `output` that is read."""
    if output not in grpo.view_passes[name].outputs:
        raise UserError(
            f"{where} reads {output} of the pass {name!r}; add it: "
            f"grpo.view_passes.{name}.outputs=[{output}, ...]"
        )


# --- parts that don't go together --------------------------------------------------------------------------


def _name(part: Any) -> str:
    """The name of a part's function or class."""
    function = part_function(part)
    return getattr(function, "__name__", type(function).__name__)


def _check_loss(grpo: GRPO) -> None:
    sums_tokens = has_trait(grpo.loss_aggregation, "sums_tokens")
    if has_trait(grpo.loss, "sequence_level") and sums_tokens:
        raise UserError(
            f"{_name(grpo.loss)} gives one value per completion, which {_name(grpo.loss_aggregation)} would "
            "count once per token; use loss_aggregation sequence_mean"
        )
    off_policy = grpo.updates > 1 or grpo.ahead or has_trait(grpo.resampling, "replays_groups")
    if has_trait(grpo.loss, "on_policy_only") and off_policy:
        raise UserError(
            f"loss {_name(grpo.loss)} takes every completion for the present policy's own; with "
            "rollout.ahead=1, several updates per rollout or replayed groups use clipped_surrogate, "
            "sequence_surrogate or cispo"
        )


def _check_advantage(grpo: GRPO) -> None:
    """What an advantage would not notice, and groups that have nothing to be compared with."""
    requested = requested_columns(grpo.advantage)
    if grpo.reward.multiplier is not None and has_trait(grpo.advantage, "divides_by_group_std"):
        raise UserError(
            f"reward.multiplier has no effect under {_name(grpo.advantage)}: a factor that all completions "
            "of a problem share cancels in (r - mean) / std; weigh the loss instead "
            "(openvlt.grpo.parts.advantage_shaping.weigh_by_difficulty), or use an advantage without std"
        )
    if grpo.reward_kl is not None and not {"reward_N", "penalty_NT"} & set(requested):
        raise UserError(
            "grpo.reward_kl has no effect under an advantage that reads neither reward_N nor penalty_NT, "
            "such as gdpo, which goes by the terms of the reward; put the KL term into the loss (grpo.kl), "
            "or use another advantage"
        )
    combines_terms = "rewards" in requested and "reward_N" not in requested
    if combines_terms and part_function(grpo.reward.combine) is not weighted_sum:
        raise UserError(
            f"reward.combine has no effect under {_name(grpo.advantage)}, which adds up the weighted terms "
            "itself; leave it out"
        )
    needs_siblings = has_trait(grpo.advantage, "needs_siblings")
    if needs_siblings and largest_group(grpo.rollout_plan, grpo.group_size, grpo.steps) == 1:
        raise UserError(
            f"grpo.group_size=1 trains nothing under {_name(grpo.advantage)}: a group of one is its own "
            "baseline and its advantage 0; give at least 2, or take reinforce_pp, whose baseline is the "
            "batch"
        )


def _check_group_filter(grpo: GRPO) -> None:
    """Groups of equal rewards are dropped only where they have no gradient."""
    if not has_trait(grpo.group_filter, "drops_equal_groups"):
        return
    if grpo.reward_kl is not None:
        reason = "the KL term in the reward"
    elif has_trait(grpo.advantage, "uses_equal_groups"):
        reason = _name(grpo.advantage)
    else:
        return
    raise UserError(
        f"group_filter {_name(grpo.group_filter)} drops groups with equal rewards as if they had no "
        f"gradient, but {reason} gives them one; use group_filter keep_all_groups or keep_accuracy_band"
    )


def _check_resampling(grpo: GRPO) -> None:
    if grpo.resampling is None:
        return
    if has_trait(grpo.group_filter, "keeps_all_groups"):
        raise UserError(
            f"grpo.resampling has nothing to replace under group_filter {_name(grpo.group_filter)}; use "
            "drop_zero_variance_groups or keep_accuracy_band, or leave resampling out"
        )
    replays = has_trait(grpo.resampling, "replays_groups")
    for name, shaping in grpo.advantage_shaping.items():
        if has_trait(shaping, "reads_dropped_groups"):
            raise UserError(
                f"grpo.advantage_shaping.{name} ({_name(shaping)}) has to see the groups that resampling "
                "takes out; leave grpo.resampling out"
            )
        if replays and {"logp", "old_NT"} & set(requested_columns(shaping)):
            raise UserError(
                f"grpo.advantage_shaping.{name} reads the policy's log-probabilities, but those of replayed "
                "groups are an earlier policy's; use resampling Resample, or leave resampling out"
            )


def _check_ahead(grpo: GRPO) -> None:
    """Completions of an earlier policy are corrected for, and nothing else needs the servers meanwhile."""
    if not grpo.ahead:
        return
    if grpo.rollout_correction is None:
        raise UserError(
            "rollout.ahead=1 learns from completions of an earlier policy, for which nothing corrects; give "
            "'+grpo.rollout_correction={_target_: "
            "openvlt.grpo.parts.rollout_correction.RolloutCorrection}', or set rollout.ahead=0"
        )
    if grpo.top_p < 1:
        raise UserError(
            "rollout.ahead=1 needs the probabilities that tokens were sampled with, which aren't known under "
            f"grpo.top_p={grpo.top_p}; set grpo.top_p=1, or rollout.ahead=0"
        )
    if has_trait(grpo.resampling, "draws_again"):
        raise UserError(
            f"grpo.resampling {_name(grpo.resampling)} draws again for the same step, when under "
            "rollout.ahead=1 the servers generate the next one already; leave it out, take ReplayBuffer, or "
            "set rollout.ahead=0"
        )
    for name, term in grpo.reward.terms.items():
        if getattr(term, "model", "") == "reference":
            raise UserError(
                f"reward.terms.{name} asks the reference, whose weights would replace those with which the "
                "servers generate under rollout.ahead=1; give the term model=policy, or set rollout.ahead=0"
            )
