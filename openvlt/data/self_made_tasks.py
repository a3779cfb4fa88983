"""Task builders, `(problem, rng) -> problems`: self-made questions whose answers are known by construction.

They replace the problem. The one whose result the sampler observes keeps its id; others have their own.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace

from openvlt.data.images import open_images
from openvlt.errors import UserError
from openvlt.types import Problem

_VALUE = re.compile(r"(\w+)=(\d+)")


def rotation_task(problem: Problem, rng: random.Random) -> list[Problem]:
    """SSL4RL's rotation task (`makerotation_*.py`): by how many degrees was the second image turned?

    It is the first one, turned counter-clockwise by 0, 90, 180 or 270 degrees.
    """
    if not problem.images:
        raise UserError(
            f"row {problem.id!r} has no image to rotate; leave rows without images out, "
            "or choose another task builder"
        )
    image, degrees = open_images(problem)[0], 90 * rng.randrange(4)
    question = (
        "The second image is the first one turned counter-clockwise. By how many degrees: 0, 90, 180 or 270?"
    )
    turned = image.rotate(degrees, expand=True)
    return [
        Problem(problem.id, question, str(degrees), (image, turned), source="rotation", level=problem.level)
    ]


def add_perception_task(problem: Problem, rng: random.Random) -> list[Problem]:
    """The problem and a question about its picture (PEARL's checklist, here from a figure's caption).

    `meta["parent"]` links it to the problem: see `openvlt.grpo.parts.advantage_shaping.require_perception`.
    """
    values = _VALUE.findall(str(problem.meta.get("caption", "")))
    if not values:
        raise UserError(
            f"row {problem.id!r} has no caption with values to ask for; this task builder needs problems of "
            "figures or digits"
        )
    name, value = rng.choice(values)
    check = replace(
        problem,
        id=f"{problem.id}|see",
        question=f"What is {name}?",
        answer=value,
        meta={"parent": problem.id},
    )
    return [problem, check]
