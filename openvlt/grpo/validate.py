"""What a bundle can't be: settings out of range, parts that ask for what isn't there, parts that don't go together, and why."""

from __future__ import annotations

import inspect
from dataclasses import fields
from functools import partial
from typing import Any

from openvlt.config.validate import check_positive
from openvlt.errors import UserError
from openvlt.grpo.collect.columns import EXTRA, SCORED, check_requested_columns, requested_columns
from openvlt.grpo.collect.plan import largest_group
from openvlt.grpo.collect.sampler import NearHalf
from openvlt.grpo.parts import advantage, advantage_shaping, group_filter, loss, loss_aggregation
from openvlt.grpo.parts.schedules import (
    PARTS,
    Schedule,
    check_coefficient,
    refuse_schedule,
    resolve_schedules,
)
from openvlt.reward.reward import weighted_sum
from openvlt.trainer.module import check_optimisation
from openvlt.trainer.optimizer import check_optimizer

DENOMINATORS = ("all", "kept", "selected")
SIZES = (
    "steps",
    "group_size",
    "prompts_per_rollout",
    "prompts_per_update",
    "micro_batch",
    "temperature",
    "top_p",
    "max_new_tokens",
)
BY_GROUP_STD = (advantage.normalise_by_group, advantage.gdpo)
OVER_BATCH = (
    advantage.reinforce_pp,
    advantage.reinforce_pp_baseline,
    advantage.gdpo,
)  # not 0 in a group of equal rewards


def validate_algorithm(bundle: Any) -> None:
    """Raises UserError for a `GRPO` that can't be."""
    _settings(bundle)
    _columns(bundle)
    _together(bundle)
    for step in (0, bundle.steps - 1):  # schedules whose values no part takes are found now
        resolve_schedules(
            [getattr(bundle, part) for part in PARTS if part != "kl"] + [bundle.losses], step, bundle.steps
        )


def _settings(bundle: Any) -> None:
    if bundle.denominator not in DENOMINATORS:
        raise UserError(
            f"grpo.denominator={bundle.denominator!r}; it is all (dropped groups count), or kept (they don't), or selected (only tokens "
            "whose weight isn't 0 count)"
        )
    check_coefficient("grpo.kl", bundle.kl, "0 switches the KL term off")
    if bundle.kl and "kl" in bundle.auxiliary_losses:
        raise UserError(
            "grpo.kl and grpo.auxiliary_losses.kl are two KL terms of one name; set grpo.kl=0, or call the other one differently"
        )
    for entry in fields(bundle):
        if entry.name not in PARTS:
            refuse_schedule(f"grpo.{entry.name}", getattr(bundle, entry.name))
    check_positive(bundle, "grpo", *SIZES)
    if bundle.top_p > 1:
        raise UserError(f"grpo.top_p={bundle.top_p}; it is above 0 and at most 1, which cuts nothing off")
    check_coefficient("grpo.transcripts", bundle.transcripts, "0 keeps none")
    check_optimisation("grpo", bundle.warmup_ratio, bundle.max_grad_norm)
    check_optimizer("grpo.optimizer", bundle.optimizer)
    _select(bundle.select)
    if _function(bundle.sampler) is NearHalf:
        bundle.sampler((), 0)  # says what is wrong with its settings now, and not when its stage begins
    for step in (0, bundle.steps - 1):
        for name, value in _numbers(resolve_schedules(bundle.loss, step, bundle.steps)):
            check_coefficient(f"grpo.loss.{name}", value, "it bounds a ratio")
            if name == "dual" and not value > 1:
                raise UserError(
                    f"grpo.loss.dual={value}; it bounds ratios above 1, so it is above 1 itself, or null for no bound"
                )
    if bundle.prompts_per_rollout % bundle.prompts_per_update:
        raise UserError(
            f"grpo.prompts_per_rollout={bundle.prompts_per_rollout} is no multiple of grpo.prompts_per_update="
            f"{bundle.prompts_per_update}; whole groups go to each update"
        )


def _select(select: Any) -> None:
    """A selector is called with the columns alone: its other parameters are settings that the config gives."""
    parameters = list(inspect.signature(select).parameters.values())[1:] if select is not None else []
    asked = [
        p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if asked:
        raise UserError(f"grpo.select has no {asked[0]}; give +grpo.select.{asked[0]}=<value>")


def _numbers(part: Any) -> list[tuple[str, Any]]:
    keywords = part.keywords if isinstance(part, partial) else {}
    return [
        (name, value)
        for name, value in keywords.items()
        if isinstance(value, (int, float)) and not isinstance(value, Schedule)
    ]


def _columns(bundle: Any) -> None:
    check_requested_columns("grpo.advantage", bundle.advantage, extra=EXTRA, later=("adv_NT",))
    check_requested_columns("grpo.group_filter", bundle.group_filter, later=(*SCORED, "adv_NT"))
    for kind in ("advantage_shaping", "metric_hooks"):
        for name, part in getattr(bundle, kind).items():
            check_requested_columns(f"grpo.{kind}.{name}", part)
            _views(f"grpo.{kind}.{name}", part, bundle)
    for name, aux in bundle.losses.items():
        if missing := [
            need for need in aux.needs if need not in ("reference", "entropy", *bundle.view_passes)
        ]:
            raise UserError(
                f"grpo.auxiliary_losses.{name} needs the pass {missing[0]!r}; grpo.view_passes has {sorted(bundle.view_passes)}"
            )
        for need in set(aux.needs) & set(bundle.view_passes):
            _gives(f"grpo.auxiliary_losses.{name}", need, "logp", bundle)


def _views(where: str, part: Any, bundle: Any) -> None:
    """A setting `view` or `noisy` of a part that reads scores names one of the passes."""
    outputs = [
        output
        for column, output in (("logp", "logp"), ("stats", "sym_kl"))
        if column in requested_columns(part)
    ]
    for name, parameter in inspect.signature(part).parameters.items() if outputs else ():
        if name not in ("view", "noisy") or not isinstance(parameter.default, str):
            continue
        if parameter.default not in bundle.view_passes:
            raise UserError(
                f"{where}.{name}={parameter.default!r} is no pass; grpo.view_passes has {sorted(bundle.view_passes)}"
            )
        for output in outputs:
            _gives(where, parameter.default, output, bundle)


def _gives(where: str, name: str, output: str, bundle: Any) -> None:
    """The pass `name` computes the `output` that is read."""
    if output not in bundle.view_passes[name].outputs:
        raise UserError(
            f"{where} reads {output} of the pass {name!r}; add it: grpo.view_passes.{name}.outputs=[{output}, ...]"
        )


def _together(bundle: Any) -> None:
    function = {
        name: _function(getattr(bundle, name))
        for name in ("loss", "loss_aggregation", "advantage", "group_filter")
    }
    if (
        function["loss"] in loss.SEQUENCE_LEVEL
        and function["loss_aggregation"] in loss_aggregation.TOKEN_SUMS
    ):
        raise UserError(
            f"{function['loss'].__name__} gives one value per completion, which {function['loss_aggregation'].__name__} would count once per "
            "token; use loss_aggregation sequence_mean"
        )
    if function["loss"] is loss.policy_gradient and (bundle.updates > 1 or _replays(bundle)):
        raise UserError(
            "loss policy_gradient takes every completion for the present policy's own; with several updates per rollout or replayed "
            "groups use clipped_surrogate, sequence_surrogate or cispo"
        )
    _advantage(bundle, function["advantage"])
    if function["group_filter"] is group_filter.drop_zero_variance_groups:
        _keep_unequal(bundle, function["advantage"])
    if bundle.resampling is not None:
        _refill(bundle, function["group_filter"])


def _advantage(bundle: Any, function: Any) -> None:
    """What an advantage would not notice, and groups that have nothing to be compared with."""
    if bundle.reward.multiplier is not None and function in BY_GROUP_STD:
        raise UserError(
            f"reward.multiplier has no effect under {function.__name__}: a factor that all completions of a problem share "
            "cancels in (r - mean) / std; weigh the loss instead (openvlt.grpo.parts.advantage_shaping.weigh_by_difficulty), or use an advantage without std"
        )
    if bundle.reward_kl is not None and not {"reward_N", "penalty_NT"} & set(
        requested_columns(bundle.advantage)
    ):
        raise UserError(
            "grpo.reward_kl has no effect under an advantage that reads neither reward_N nor penalty_NT, such as gdpo, which goes by the "
            "terms of the reward; put the KL term into the loss (grpo.kl), or use another advantage"
        )
    if function is advantage.gdpo and _function(bundle.reward.combine) is not weighted_sum:
        raise UserError(
            "reward.combine has no effect under gdpo, which adds up the weighted terms itself; leave it out"
        )
    alone = "group_N" in requested_columns(bundle.advantage) and function.__module__ == advantage.__name__
    if alone and largest_group(bundle.rollout_plan, bundle.group_size, bundle.steps) == 1:
        raise UserError(
            f"grpo.group_size=1 trains nothing under {function.__name__}: a group of one is its own baseline and its advantage 0; give at "
            "least 2, or take reinforce_pp, whose baseline is the batch"
        )


def _keep_unequal(bundle: Any, function: Any) -> None:
    if bundle.reward_kl is not None:
        raise UserError(
            "group_filter drop_zero_variance_groups drops groups with equal rewards as if they had no gradient, but the KL term in the reward gives them one; "
            "use group_filter keep_all_groups or keep_accuracy_band"
        )
    if function in OVER_BATCH:
        raise UserError(
            f"group_filter drop_zero_variance_groups drops groups with equal rewards as if they had no gradient, but {function.__name__} gives them one; "
            "use group_filter keep_all_groups or keep_accuracy_band"
        )


def _refill(bundle: Any, function: Any) -> None:
    if function is group_filter.keep_all_groups:
        raise UserError(
            "grpo.resampling has nothing to replace under group_filter keep_all_groups; use drop_zero_variance_groups or keep_accuracy_band, or leave resampling out"
        )
    for name, part in bundle.advantage_shaping.items():
        if _function(part) is advantage_shaping.require_perception:
            raise UserError(
                "shaper require_perception has to see the perception groups that a refill takes out; leave grpo.resampling out"
            )
        if _replays(bundle) and {"logp", "old_NT"} & set(requested_columns(part)):
            raise UserError(
                f"grpo.advantage_shaping.{name} reads the policy's log-probabilities, but those of replayed groups are an earlier policy's; use "
                "resampling Resample, or leave resampling out"
            )


def _replays(bundle: Any) -> bool:
    return hasattr(bundle.resampling, "state_dict")


def _function(part: Any) -> Any:
    return part.func if isinstance(part, partial) else part
