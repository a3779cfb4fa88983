"""Loss aggregations: from a loss per token to a scalar, `(loss_NT, mask_NT, totals) -> ()`.

Every mean names its denominator, which is the whole optimiser step's: `totals` counts tokens and completions
over all its micro-batches and ranks. The value for one micro-batch is its share of the step's loss, so shares
add up to the same loss and gradient however the step is split. `loss_NT` may be (N,1): one value per
completion.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from openvlt.grpo.parts.traits import declare_traits
from openvlt.types import Totals

LossAggregation = Callable[[Tensor, Tensor, Totals], Tensor]


def token_mean(loss_NT: Tensor, mask_NT: Tensor, totals: Totals) -> Tensor:
    """Sum over tokens / tokens of the step (DAPO, arXiv 2503.14476, eq. 8): every token counts the same."""
    return (loss_NT * mask_NT).sum() / totals.tokens


def sequence_mean(loss_NT: Tensor, mask_NT: Tensor, totals: Totals) -> Tensor:
    """Sum over completions of (their token mean) / completions of the step.

    (1/G) sum 1/|o| sum, as the paper and GRPO write it.
    """
    per_row_N = (loss_NT * mask_NT).sum(1) / mask_NT.sum(1).clamp(min=1)
    return per_row_N.sum() / totals.sequences


@declare_traits("sums_tokens")
def sequence_sum(loss_NT: Tensor, mask_NT: Tensor, totals: Totals) -> Tensor:
    """Sum over tokens / completions of the step.

    A completion counts by its length, as the gradient of log pi(completion) does.
    """
    return (loss_NT * mask_NT).sum() / totals.sequences


@declare_traits("sums_tokens")
def constant_length(loss_NT: Tensor, mask_NT: Tensor, totals: Totals, *, length: int) -> Tensor:
    """Sum over tokens / (completions of the step x `length`): no bias by length.

    Dr. GRPO, arXiv 2503.20783, section 3.2. `length` is a constant such as the token limit of a completion,
    not the padded width of a batch, which differs from split to split.
    """
    return (loss_NT * mask_NT).sum() / (totals.sequences * length)
