"""Cost and yield of a distillation, estimated before the first call from amounts, pass rates and prices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from openvlt.data.sources.base import Selection
from openvlt.data.sources.mixture import apportion, fill_shares
from openvlt.distill.settings import Distillation
from openvlt.errors import UserError


@dataclass(frozen=True)
class ExpectedYield:
    """What is known beforehand: `pass_rate` and `sizes` (rows) per source, and mean tokens per call.

    A pass rate is the share of problems with a correct chain among the samples. A source without one has an
    unknown yield.
    """

    pass_rate: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    caption_tokens: int = 200
    chain_tokens: int = 430
    prompt_tokens: int = 150
    image_tokens: int = 330


def split_amount(selection: Selection, expected: ExpectedYield) -> dict[str, int]:
    """How many problems each source gives; a source smaller than its share gives all it has."""
    amount = _require_amount(selection)
    weights = dict(selection.sources or {"data": 1})
    sizes = {name: expected.sizes.get(name, amount) for name in weights}
    if sum(sizes.values()) >= amount:
        return fill_shares(amount, weights, sizes)
    return apportion(amount, weights)


def _require_amount(selection: Selection) -> int:
    if selection.amount is None:
        raise UserError("a plan needs an amount; set select.amount=<number of problems>")
    return selection.amount


def describe_cost(distillation: Distillation, selection: Selection, expected: ExpectedYield) -> str:
    """A table per source and the totals: calls, tokens, cost, expected traces."""
    samples, wanted = distillation.samples, _require_amount(selection)
    head = f"{'source':<14}{'problems':>9}{'chains':>9}{f'pass@{samples}':>9}{'traces':>9}"
    lines, total, unknown = [head], 0.0, []
    for name, amount in split_amount(selection, expected).items():
        rate = expected.pass_rate.get(name)
        if rate is None:
            unknown.append(name)
            shown = ("unknown", "unknown")
        else:
            total += amount * rate
            shown = (f"{100 * rate:.1f} %", f"{amount * rate:.0f}")
        lines.append(f"{name:<14}{amount:>9}{amount * samples:>9}{shown[0]:>9}{shown[1]:>9}")
    lines += _call_lines(distillation, wanted, expected)
    if unknown:
        lines.append(
            f"traces: at least {total:.0f}; no pass rate is known for {', '.join(unknown)}: "
            "measure it with select.amount=500"
        )
    else:
        again = f"; for {wanted} traces ask about {wanted**2 / total:.0f} problems" if total else ""
        lines.append(
            f"traces: about {total:.0f} of {wanted} problems, one each, before the cut drops any{again}"
        )
    return "\n".join(lines)


def _call_lines(distillation: Distillation, amount: int, expected: ExpectedYield) -> list[str]:
    """One line per stage that calls a model."""
    captioner, chains = distillation.caption, amount * distillation.samples
    read = expected.image_tokens if captioner is None else expected.caption_tokens
    stages = [("chains", distillation.reason, chains, read, expected.chain_tokens)]
    if captioner is not None:
        stages.insert(0, ("captions", captioner, amount, expected.image_tokens, expected.caption_tokens))
    return [
        _call_line(name, writer, calls, calls * (expected.prompt_tokens + read), calls * written)
        for name, writer, calls, read, written in stages
    ]


def _call_line(name: str, writer: Any, calls: int, tokens_in: int, tokens_out: int) -> str:
    server, prices = getattr(writer, "server", None), []
    if server:
        by = ", ".join(server.models)
        prices = [(tokens_in * e.input_price + tokens_out * e.output_price) / 1e6 for e in server.endpoints]
    else:
        by = "the run's own model" if writer.local else type(writer).__name__
    tokens = f"about {tokens_in / 1e6:.1f} M tokens in and {tokens_out / 1e6:.1f} M out"
    cost = f", cost about {sum(prices) / len(prices):.2f}" if any(prices) else ""
    return f"{name}: {calls} calls of {by}, {tokens}{cost}"
