"""Task builders: `(problem, rng) -> problems` that stand in its place. Self-made questions whose answers are known by construction.

The one that a sampler is to hear of keeps the problem's id; further ones have ids of their own.
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
    """SSL4RL's rotation task (`makerotation_*.py`): the image beside itself turned by k x 90 degrees counter-clockwise; by how much?"""
    if not problem.images:
        raise UserError(
            f"row {problem.id!r} has no image to rotate; leave rows without images out, or choose another grpo.task_builder"
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
    """The problem and one question about what is seen (PEARL's checklist, here from the caption of a generated figure).

    `meta["parent"]` links it to the problem: see `openvlt.grpo.parts.advantage_shaping.require_perception`.
    """
    values = _VALUE.findall(str(problem.meta.get("caption", "")))
    if not values:
        raise UserError(
            f"row {problem.id!r} has no caption with values to ask for; this grpo.task_builder needs data=figures or data=digits"
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
