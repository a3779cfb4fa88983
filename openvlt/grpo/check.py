"""What a bundle can't be: settings out of range, parts that ask for what isn't there, parts that don't go together, and why."""

from __future__ import annotations

import inspect
from dataclasses import fields
from functools import partial
from typing import Any

from openvlt.grpo import advantage, aggregate, gate, loss
from openvlt.grpo.columns import EXTRA, check_columns, wanted
from openvlt.grpo.schedule import PARTS, Schedule, at, fixed, not_negative
from openvlt.types import UserError

DENOMINATORS = ("all", "kept", "selected")
SIZES = ("steps", "group_size", "prompts_per_rollout", "prompts_per_update", "micro_batch", "temperature", "top_p", "max_new_tokens")
BY_GROUP_STD = (advantage.group_normalised, advantage.gdpo)


def check(bundle: Any) -> None:
    """Raises UserError for a `GRPO` that can't be."""
    _settings(bundle)
    _columns(bundle)
    _together(bundle)
    for step in (0, bundle.steps - 1):  # schedules whose values no part takes are found now
        at([getattr(bundle, part) for part in PARTS if part != "kl"] + [bundle.losses], step, bundle.steps)


def _settings(bundle: Any) -> None:
    if bundle.denominator not in DENOMINATORS:
        raise UserError(
            f"grpo.denominator={bundle.denominator!r}; it is all (dropped groups count), or kept (they don't), or selected (only tokens "
            "whose weight isn't 0 count)"
        )
    not_negative("grpo.kl", bundle.kl, "0 switches the KL term off")
    if bundle.kl and "kl" in bundle.auxiliary:
        raise UserError("grpo.kl and grpo.auxiliary.kl are two KL terms of one name; set grpo.kl=0, or call the other one differently")
    for entry in fields(bundle):
        if entry.name not in PARTS:
            fixed(f"grpo.{entry.name}", getattr(bundle, entry.name))
    for name in SIZES:
        if not getattr(bundle, name) > 0:
            raise UserError(f"grpo.{name}={getattr(bundle, name)}; it is above 0")
    if bundle.top_p > 1:
        raise UserError(f"grpo.top_p={bundle.top_p}; it is above 0 and at most 1, which cuts nothing off")
    _select(bundle.select)
    for name, value in _numbers(bundle.loss):
        not_negative(f"grpo.loss.{name}", value, "it bounds a ratio")
    if bundle.prompts_per_rollout % bundle.prompts_per_update:
        raise UserError(
            f"grpo.prompts_per_rollout={bundle.prompts_per_rollout} is no multiple of grpo.prompts_per_update="
            f"{bundle.prompts_per_update}; whole groups go to each update"
        )


def _select(select: Any) -> None:
    """A selector is called with the columns alone: its other parameters are settings that the config gives."""
    parameters = list(inspect.signature(select).parameters.values())[1:] if select is not None else []
    asked = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if asked:
        raise UserError(f"grpo.select has no {asked[0]}; give +grpo.select.{asked[0]}=<value>")


def _numbers(part: Any) -> list[tuple[str, Any]]:
    keywords = part.keywords if isinstance(part, partial) else {}
    return [(name, value) for name, value in keywords.items() if isinstance(value, (int, float)) and not isinstance(value, Schedule)]


def _columns(bundle: Any) -> None:
    check_columns("grpo.advantage", bundle.advantage, extra=EXTRA)
    check_columns("grpo.gate", bundle.gate)
    for kind in ("shapers", "hooks"):
        for name, part in getattr(bundle, kind).items():
            check_columns(f"grpo.{kind}.{name}", part)
            _views(f"grpo.{kind}.{name}", part, bundle)
    for name, aux in bundle.losses.items():
        if missing := [need for need in aux.needs if need not in ("reference", "entropy", *bundle.passes)]:
            raise UserError(f"grpo.auxiliary.{name} needs the pass {missing[0]!r}; grpo.passes has {sorted(bundle.passes)}")
        for need in set(aux.needs) & set(bundle.passes):
            _gives(f"grpo.auxiliary.{name}", need, "logp", bundle)


def _views(where: str, part: Any, bundle: Any) -> None:
    """A setting `view` or `noisy` of a part that reads scores names one of the passes."""
    outputs = [output for column, output in (("logp", "logp"), ("stats", "sym_kl")) if column in wanted(part)]
    for name, parameter in inspect.signature(part).parameters.items() if outputs else ():
        if name not in ("view", "noisy") or not isinstance(parameter.default, str):
            continue
        if parameter.default not in bundle.passes:
            raise UserError(f"{where}.{name}={parameter.default!r} is no pass; grpo.passes has {sorted(bundle.passes)}")
        for output in outputs:
            _gives(where, parameter.default, output, bundle)


def _gives(where: str, name: str, output: str, bundle: Any) -> None:
    """The pass `name` computes the `output` that is read."""
    if output not in bundle.passes[name].outputs:
        raise UserError(f"{where} reads {output} of the pass {name!r}; add it: grpo.passes.{name}.outputs=[{output}, ...]")


def _together(bundle: Any) -> None:
    function = {name: _function(getattr(bundle, name)) for name in ("loss", "aggregate", "advantage", "gate")}
    if bundle.reward.multiplier is not None and function["advantage"] in BY_GROUP_STD:
        raise UserError(
            f"reward.multiplier has no effect under {function['advantage'].__name__}: a factor that all completions of a problem share "
            "cancels in (r - mean) / std; weigh the loss instead (openvlt.grpo.shape.level_weights), or use an advantage without std"
        )
    if function["loss"] in loss.SEQUENCE_LEVEL and function["aggregate"] in aggregate.ADDING_UP:
        raise UserError(
            f"{function['loss'].__name__} gives one value per completion, which {function['aggregate'].__name__} would count once per "
            "token; use aggregate sequence_mean"
        )
    if bundle.refill is not None and function["gate"] is gate.keep_all:
        raise UserError("grpo.refill has nothing to replace under gate keep_all; use keep_unequal or accuracy_band, or leave refill out")
    if bundle.reward_kl is not None and function["gate"] is gate.keep_unequal:
        raise UserError(
            "gate keep_unequal drops groups with equal rewards as if they had no gradient, but the KL term in the reward gives them one; "
            "use gate keep_all or accuracy_band"
        )
    replays = hasattr(bundle.refill, "state_dict")
    if function["loss"] is loss.policy_gradient and (bundle.updates > 1 or replays):
        raise UserError(
            "loss policy_gradient takes every completion for the present policy's own; with several updates per rollout or replayed "
            "groups use clipped_surrogate, sequence_surrogate or cispo"
        )


def _function(part: Any) -> Any:
    return part.func if isinstance(part, partial) else part
