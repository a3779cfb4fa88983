"""What a rollout batch shows of itself."""

from __future__ import annotations

import math

import pytest
import torch

from openvlt.grpo.collect.metrics import group_outcomes
from openvlt.grpo.collect.transcripts import Transcripts
from openvlt.trackers.recorder import Recorder
from tests.helpers.factories import rollouts
from tests.helpers.trackers import Notebook


def test_outcomes_are_shares_of_groups_of_any_size() -> None:
    group_N = torch.tensor([7, 7, 3, 3, 3, 9, 5])  # as of rows that were taken from a larger batch
    correct_N = torch.tensor([True, True, False, True, False, False, False])
    shares = {"groups_all_wrong": 0.5, "groups_mixed": 0.25, "groups_all_right": 0.25}
    assert group_outcomes(correct_N, group_N) == pytest.approx(shares)
    none = torch.zeros(0, dtype=torch.long)
    assert all(math.isnan(share) for share in group_outcomes(none.bool(), none).values())


def test_kept_rows_have_each_reward_term_and_go_to_the_trackers(tmp_path) -> None:
    made = rollouts([1.0, 0.0, 1.0, 0.0])
    terms = {"accuracy": made.reward_N, "format": torch.tensor([0.5, torch.nan, 0.25, 0.25])}
    tracker = Notebook()
    part = Recorder({"mine": tracker}, rollouts_every=5).begin_stage("grpo")
    transcripts = Transcripts(tmp_path, len(made.problems), part)
    transcripts.add(made.with_(rewards=terms), 0)
    ((name, rows, step),) = tracker.tables
    assert (name, step, len(rows)) == ("grpo/rollouts", 1, 4)
    assert [row["reward_format"] for row in rows][:2] == [0.5, None]
    assert [row["reward_accuracy"] for row in rows] == made.reward_N.tolist()
