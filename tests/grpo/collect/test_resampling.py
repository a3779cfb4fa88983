"""Resampling: more draws until enough groups are kept, or earlier groups again; and rows taken and joined."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from openvlt.errors import UserError
from openvlt.grpo.collect.ops import concat_rollouts, take_groups, take_rows
from openvlt.grpo.collect.resampling import ReplayBuffer, Resample, kept_groups
from openvlt.model.shared_prefix.vision_features import FEATURES
from openvlt.types import Origin
from tests.helpers.factories import rollouts


def drawing(*draws: list[float]):
    made = iter([rollouts(rewards, start=2 * number + 2) for number, rewards in enumerate(draws)])
    return lambda: next(made)


def test_resampling_fills_up_in_order_and_stops_at_its_bound():
    first = rollouts([1.0, 1.0, 1.0, 0.0])
    full = Resample(tries=3)(first, drawing([0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 0.0]))
    assert [problem.id for problem in full.problems] == ["p1", "p4"]  # p5 is surplus
    assert [completion.text[-3:] for completion in full.completions] == ["0/2", "0/3", "4/0", "4/1"]
    assert full.group_N.tolist() == [0, 0, 1, 1] and full.keep_N.all() and len(full.prompts) == 2
    short = Resample(tries=1)(first, drawing([0.0] * 4, [0.0, 1.0, 0.0, 1.0]))
    assert [problem.id for problem in short.problems] == ["p1"]
    nothing = Resample(tries=1)(rollouts([1.0] * 4), drawing([0.0] * 4))
    assert len(nothing.problems) == 2 and not nothing.keep_N.any()


def test_replay_remembers_kept_groups_and_continues_from_its_state():
    memory = ReplayBuffer(capacity=2, seed=1)
    full = memory(rollouts([1.0, 0.0, 0.0, 1.0]), None)
    assert [p.id for p in full.problems] == ["p0", "p1"] and (full.origin_N == 0).all()
    again = ReplayBuffer(capacity=2, seed=1)
    again.load_state_dict(memory.state_dict())
    second = rollouts([1.0, 1.0, 1.0, 0.0], start=7)
    one, other = (each(second, None) for each in (memory, again))
    assert [p.id for p in one.problems] == [p.id for p in other.problems]
    assert one.problems[0].id == "p8" and one.problems[1].id in ("p0", "p1") and one.policy_version == 7
    assert one.origin_N.tolist() == [0, 0, Origin.REPLAYED, Origin.REPLAYED]
    assert len(memory.memory) == 2 and memory.memory[-1].problems[0].id == "p8"
    with pytest.raises(UserError, match="needs the sampler's log-probabilities"):
        memory(second.with_(behaviour_logp_NT=None), None)


def test_rows_and_groups_taken_and_joined_are_the_same_rows():
    one, two = rollouts([1.0, 0.0, 1.0, 0.0], lengths=[1, 2, 3, 4]), rollouts([0.5, 0.0], groups=1, start=9)
    both = concat_rollouts([one, two])
    assert both.group_N.tolist() == [0, 0, 1, 1, 2, 2] and both.policy_version == 9 and len(both.prompts) == 3
    back = take_groups(both, [2, 1])
    assert [p.id for p in back.problems] == ["p9", "p1"]
    assert back.group_N.tolist() == [1, 1, 0, 0] and back.mask_NT.sum(1).tolist() == [3, 4, 4, 4]
    kept = take_rows(both, torch.tensor([True, False] * 3))
    assert [c.text[-3:] for c in kept.completions] == ["0/0", "0/2", "9/0"] and kept_groups(both) == [0, 1, 2]


def test_replay_keeps_given_texts_and_forgets_what_is_only_compared_with():
    """A given text stays one, without a behaviour: neither a ratio to NaN nor imitation's rows are lost."""
    own, given, compared, task = Origin.POLICY, Origin.INJECTED, Origin.REWARD_ONLY, Origin.AUXILIARY
    first = rollouts(
        [1.0, 0.0, 0.0, 1.0, 1.0, 0.0], origin_N=torch.tensor([own, given, compared, task, task, task])
    )
    first.behaviour_logp_NT[1] = torch.nan
    memory = ReplayBuffer()
    assert memory(first, None).origin_N.tolist() == first.origin_N.tolist()  # fresh groups are what they are
    (group,) = memory.memory  # the second is a task of its problem: only the problem itself comes back
    assert group.origin_N.tolist() == [Origin.REPLAYED, given] and [
        c.text[-3:] for c in group.completions
    ] == ["0/0", "0/1"]
    again = memory(rollouts([1.0] * 2, groups=1, start=1), None)
    assert again.origin_N.tolist() == [Origin.REPLAYED, given] and again.behaviour_logp_NT[1].isnan().all()


def test_a_replayed_rollout_is_as_new_as_the_one_it_stands_in_for():
    """Not as new as what is remembered: a stage counts its policies from 0 again."""
    memory = ReplayBuffer()
    memory(rollouts([1.0, 0.0], groups=1, start=40), None)
    assert memory(rollouts([1.0, 1.0], groups=1, start=3), None).policy_version == 3


def test_vision_features_are_not_remembered_and_pixels_are():
    def seeing(start: int):
        made, rows = rollouts([1.0, 0.0, 1.0, 1.0], start=start), torch.arange(16.0).view(8, 2) + start
        vision = {
            "pixel_values": rows,
            "image_grid_thw": torch.tensor([[1, 2, 2]] * 2),
            FEATURES: rows[::4],
            "deep_0": rows[::4],
        }
        return made.with_(prompts=replace(made.prompts, images_P=torch.ones(2).long(), vision=vision))

    memory = ReplayBuffer()
    memory(seeing(0), None)
    assert set(memory.memory[0].prompts.vision) == {"pixel_values", "image_grid_thw"}
    joined = memory(seeing(100), None).prompts  # one fresh group with features, one from the memory without
    assert set(joined.vision) == {"pixel_values", "image_grid_thw"}
    assert joined.vision["pixel_values"][:, 0].tolist() == [100, 102, 104, 106, 0, 2, 4, 6]
