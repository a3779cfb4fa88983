"""Our losses against TRL's on identical tensors: the largest relative difference of value and gradient.

Command: `python bench/equality_trl.py`, in an environment of its own with `pip install trl==1.16.0` beside
requirements.txt (bench-only). Writes bench/results/equality_trl.json. Every loss type that both have is
compared.

TRL's `GRPOTrainer._compute_loss` runs unchanged on a stub of the trainer that hands it the log-
probabilities. One micro-batch is the whole step, where the denominators of both agree: TRL's grpo and sapo
average rows, dapo and cispo divide by the step's tokens, dr_grpo by rows x maximal length. float64; the
target is 1e-5.
"""

from __future__ import annotations

import json
import platform
import sys
from collections import defaultdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from openvlt.grpo.parts import loss, loss_aggregation  # noqa: E402
from openvlt.grpo.parts.kl import k3  # noqa: E402
from openvlt.types import Totals  # noqa: E402

ROWS, WIDTH, LIMIT = 12, 17, 32
CASES: dict[str, tuple[dict[str, Any], Any, Any]] = {  # TRL's settings, our loss, our aggregate
    "grpo": (dict(loss_type="grpo"), loss.clipped_surrogate, loss_aggregation.sequence_mean),
    "grpo, two-sided clip": (
        dict(loss_type="grpo", delta=1.5),
        partial(loss.clipped_surrogate, dual=1.5),
        loss_aggregation.sequence_mean,
    ),
    "grpo + k3 KL": (
        dict(loss_type="grpo", beta=0.04),
        loss.clipped_surrogate,
        loss_aggregation.sequence_mean,
    ),
    "bnpo": (dict(loss_type="bnpo"), loss.clipped_surrogate, loss_aggregation.token_mean),
    "dapo": (
        dict(loss_type="dapo", high=0.28),
        partial(loss.clipped_surrogate, clip_high=0.28),
        loss_aggregation.token_mean,
    ),
    "dr_grpo": (
        dict(loss_type="dr_grpo"),
        loss.clipped_surrogate,
        partial(loss_aggregation.constant_length, length=LIMIT),
    ),
    "gspo": (
        dict(loss_type="grpo", level="sequence", low=0.03, high=0.04),
        partial(loss.gspo, clip_low=0.03, clip_high=0.04),
        loss_aggregation.sequence_mean,
    ),
    "cispo": (
        dict(loss_type="cispo", high=1.2),
        partial(loss.cispo, ratio_high=1.2),
        loss_aggregation.token_mean,
    ),
    "sapo": (dict(loss_type="sapo"), loss.sapo, loss_aggregation.sequence_mean),
}


def tensors(seed: int) -> dict[str, Tensor]:
    """Log-probabilities up to 0.5 apart, ragged completions, advantages of both signs."""
    rng = torch.Generator().manual_seed(seed)
    uniform = partial(torch.rand, ROWS, WIDTH, generator=rng, dtype=torch.float64)
    new = -4 * uniform()
    return {
        "new": new,
        "old": new + uniform() - 0.5,
        "ref": new + uniform() - 0.5,
        "adv": torch.randn(ROWS, generator=rng, dtype=torch.float64),
        "mask": (torch.arange(WIDTH) < torch.randint(1, WIDTH + 1, (ROWS, 1), generator=rng)).long(),
    }


def trls(case: dict[str, Any], given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Value and gradient of `GRPOTrainer._compute_loss`."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    logp = given["new"].clone().requires_grad_()
    accelerator = SimpleNamespace(
        num_processes=1,
        gather=lambda value: value,
        reduce=lambda value, reduction: value,
        sync_gradients=True,
    )
    args = SimpleNamespace(
        delta=case.get("delta"),
        use_bias_correction_kl=False,
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.05,
        steps_per_generation=1,
    )
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros_like(logp), None),
        accelerator=accelerator,
        args=args,
        aux_loss_enabled=False,
        beta=case.get("beta", 0.0),
        current_gradient_accumulation_steps=1,
        epsilon_low=case.get("low", 0.2),
        epsilon_high=case.get("high", 0.2),
        importance_sampling_level=case.get("level", "token"),
        loss_type=case["loss_type"],
        max_completion_length=LIMIT,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    ids = torch.zeros_like(given["mask"])
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": given["mask"],
        "advantages": given["adv"],
        "old_per_token_logps": given["old"],
        "ref_per_token_logps": given["ref"],
        "num_items_in_batch": given["mask"].sum(),
    }
    value = GRPOTrainer._compute_loss(trainer, None, inputs)
    return value.detach(), torch.autograd.grad(value, logp)[0]


def ours(
    case: dict[str, Any], token_loss: Any, reduce: Any, given: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Value and gradient of the same step here."""
    logp, mask = given["new"].clone().requires_grad_(), given["mask"]
    totals = Totals(int(mask.sum()), ROWS)
    value = reduce(token_loss(logp, given["old"], given["adv"][:, None], mask), mask, totals)
    if "beta" in case:
        value = value + case["beta"] * reduce(k3(logp, given["ref"]), mask, totals)
    return value.detach(), torch.autograd.grad(value, logp)[0]


def difference(one: Tensor, other: Tensor) -> float:
    """Largest absolute difference / largest absolute entry."""
    return float((one - other).abs().max() / one.abs().max())


def main() -> None:
    import trl

    rows = {}
    for name, (case, token_loss, reduce) in CASES.items():
        pairs = [
            (trls(case, given), ours(case, token_loss, reduce, given)) for given in map(tensors, range(20))
        ]
        value, slope = (max(difference(theirs[at], mine[at]) for theirs, mine in pairs) for at in (0, 1))
        rows[name] = {"loss": value, "gradient": slope}
        print(f"{name:<22} loss {value:.1e}  gradient {slope:.1e}")
    largest = max(max(row.values()) for row in rows.values())
    versions = {"trl": trl.__version__, "torch": torch.__version__, "python": platform.python_version()}
    record = {
        "largest_relative_difference": largest,
        "target": 1e-5,
        "batches": 20,
        "rows": rows,
        "versions": versions,
    }
    file = ROOT / "bench" / "results" / "equality_trl.json"
    file.write_text(json.dumps(record, indent=1) + "\n")
    print(f"largest {largest:.1e} -> {file.relative_to(ROOT)}")
    assert largest <= 1e-5, "TRL's loss and ours differ"


if __name__ == "__main__":
    main()
