"""`python -m openvlt.trainer.replay FILE`: computes again the step at which training stopped.

Prints loss and gradient norm of each micro-batch, which tells a bad batch from a model that is broken. Exit
status 0 when something isn't finite again, 1 when all is finite here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from openvlt.errors import UserError
from openvlt.trainer.not_finite import PartResult, replay_step


def main(arguments: list[str]) -> int:
    """Replays the file that is named; returns the exit status."""
    if len(arguments) != 1:
        print("error: give the file: python -m openvlt.trainer.replay <stage>/not_finite.pt", file=sys.stderr)
        return 2
    try:
        content, results = replay_step(Path(arguments[0]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    then = ", ".join(f"{name} {value:g}" for name, value in content["values"].items())
    print(f"step {content['step']} of the run: {then}")
    for number, result in enumerate(results, 1):
        print(f"micro-batch {number} of {len(results)}: {describe_part(result)}")
    broken = [number for number, result in enumerate(results, 1) if not result.finite]
    print(f"not finite: micro-batch {', '.join(map(str, broken))}" if broken else "all is finite here")
    return 0 if broken else 1


def describe_part(result: PartResult) -> str:
    """One line on a micro-batch."""
    names = ", ".join(result.broken[:3])
    where = f"; {len(result.broken)} tensors' gradients, the first {names}" if names else ""
    return f"loss {result.loss:g}, gradient norm {result.grad_norm:g}{where}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
