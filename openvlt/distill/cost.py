"""What a distillation will cost and give, before the first call: from the amounts, the pass rates and the prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from openvlt.data.sources.base import Selection
from openvlt.data.sources.mixture import apportion, fill_shares
from openvlt.distill.pipeline import Distillation
from openvlt.errors import UserError


@dataclass(frozen=True)
class ExpectedYield:
    """What is known beforehand: `pass_rate` (share of problems with a right chain among the samples) and `sizes` (rows there are) per
    source, and mean tokens per call. A source without a pass rate has an unknown yield.
    """

    pass_rate: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    caption_tokens: int = 200
    chain_tokens: int = 430
    prompt_tokens: int = 150
    image_tokens: int = 330


def split_amount(selection: Selection, expected: ExpectedYield) -> dict[str, int]:
    """How many problems each source gives; a source smaller than its share gives all it has."""
    if selection.amount is None:
        raise UserError("a plan needs an amount; set select.amount=<number of problems>")
    weights = dict(selection.sources or {"data": 1})
    known = {name: expected.sizes.get(name, selection.amount) for name in weights}
    return (
        fill_shares(selection.amount, weights, known)
        if sum(known.values()) >= selection.amount
        else apportion(selection.amount, weights)
    )


def describe_cost(distillation: Distillation, selection: Selection, expected: ExpectedYield) -> str:
    """A table per source and the totals: calls, tokens, cost, traces to expect."""
    rows, total, unknown = [], 0.0, []
    for name, amount in split_amount(selection, expected).items():
        rate = expected.pass_rate.get(name)
        total += amount * (rate or 0.0)
        unknown += [name] if rate is None else []
        told = ("unknown", "unknown") if rate is None else (f"{100 * rate:.1f} %", f"{amount * rate:.0f}")
        rows.append(f"{name:<14}{amount:>9}{amount * distillation.samples:>9}{told[0]:>9}{told[1]:>9}")
    head = f"{'source':<14}{'problems':>9}{'chains':>9}{f'pass@{distillation.samples}':>9}{'traces':>9}"
    lines = [head, *rows, *_calls(distillation, selection.amount, expected)]
    if unknown:
        lines.append(
            f"traces: at least {total:.0f}; no pass rate is known for {', '.join(unknown)}: measure it with select.amount=500"
        )
    else:
        again = (
            f"; for {selection.amount} traces ask about {selection.amount**2 / total:.0f} problems"
            if total
            else ""
        )
        lines.append(
            f"traces: about {total:.0f} of {selection.amount} problems, one each, before the cut drops any{again}"
        )
    return "\n".join(lines)


def _calls(distillation: Distillation, amount: int, expected: ExpectedYield) -> list[str]:
    """One line per stage that calls a model."""
    chains, read = (
        amount * distillation.samples,
        expected.image_tokens if distillation.caption is None else expected.caption_tokens,
    )
    stages = [("chains", distillation.reason, chains, read, expected.chain_tokens)]
    if distillation.caption is not None:
        stages.insert(
            0, ("captions", distillation.caption, amount, expected.image_tokens, expected.caption_tokens)
        )
    return [
        _line(name, engine, calls, calls * (expected.prompt_tokens + extra), calls * out)
        for name, engine, calls, extra, out in stages
    ]


def _line(name: str, engine: Any, calls: int, tokens_in: int, tokens_out: int) -> str:
    server = getattr(engine, "server", None)
    by = (
        ", ".join(server.models)
        if server
        else "the run's own model"
        if engine.local
        else type(engine).__name__
    )
    line = f"{name}: {calls} calls of {by}, about {tokens_in / 1e6:.1f} M tokens in and {tokens_out / 1e6:.1f} M out"
    prices = (
        [(tokens_in * e.input_price + tokens_out * e.output_price) / 1e6 for e in server.endpoints]
        if server
        else []
    )
    return line + (f", cost about {sum(prices) / len(prices):.2f}" if any(prices) else "")
