"""Batches check themselves where they are made, and prompts can be cut and repeated with their images."""

from __future__ import annotations

import pytest
import torch

from openvlt.data.rows.ids import check_unique_ids
from openvlt.errors import UserError
from openvlt.types import (
    Completion,
    GRPOBatch,
    Problem,
    Prompts,
    Rollouts,
    ScoredRollouts,
    SFTBatch,
    Totals,
    Verdict,
)


def prompts(count: int = 4, width: int = 5) -> Prompts:
    shape = (count, width)
    return Prompts(
        torch.ones(shape).long(),
        torch.ones(shape).long(),
        torch.zeros(shape).long(),
        torch.zeros(count).long(),
    )


def columns(rows: int = 8, tokens: int = 3) -> dict:
    ids = torch.ones(rows, tokens).long()
    return dict(prompts=prompts(), ids_NT=ids, mask_NT=ids, group_N=torch.arange(rows) // 2)


def grpo(**changes) -> GRPOBatch:
    ids = columns()["ids_NT"]
    own = dict(adv_NT=torch.zeros(8, 1), weight_NT=ids.float(), counted_NT=ids, trained_tokens=24)
    return GRPOBatch(**{**columns(), **own, "policy_version": 0, "totals": Totals(24, 8), **changes})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"adv_NT": torch.zeros(7, 1)},
            r"GRPOBatch\.adv_NT: expected \(8, 3\) or \(8, 1\), got \(7, 1\)",
        ),
        ({"adv_NT": torch.zeros(8)}, r"GRPOBatch\.adv_NT: expected \(8, 3\) or \(8, 1\), got \(8,\)"),
        ({"weight_NT": torch.zeros(8, 1)}, r"GRPOBatch\.weight_NT: expected \(8, 3\), got \(8, 1\)"),
        (
            {"views": {"dark": torch.zeros(8)}},
            r"GRPOBatch\.views\['dark'\]: expected \(8, 3\), got \(8,\)",
        ),
        ({"group_N": torch.zeros(8, 1)}, r"GRPOBatch\.group_N: expected \(8,\), got \(8, 1\)"),
        ({"mask_NT": torch.zeros(8, 4)}, r"GRPOBatch\.mask_NT: expected \(8, 3\), got \(8, 4\)"),
        ({"old_logp_NT": torch.zeros(8)}, r"GRPOBatch\.old_logp_NT: expected \(8, 3\), got \(8,\)"),
        ({"ref_logp_NT": torch.zeros(3, 8)}, r"GRPOBatch\.ref_logp_NT: expected \(8, 3\), got \(3, 8\)"),
        (
            {"behaviour_logp_NT": torch.zeros(9, 3)},
            r"GRPOBatch\.behaviour_logp_NT: expected \(8, 3\), got \(9, 3\)",
        ),
        ({"group_N": torch.arange(8)}, "GRPOBatch.group_N names prompt 7 of 4"),
    ],
)
def test_a_wrong_grpo_column_is_named(change, message):
    assert len(grpo()) == 8
    with pytest.raises(ValueError, match=message):
        grpo(**change)


def rollouts(**changes) -> Rollouts:
    problems = tuple(Problem(str(index), "?", "1") for index in range(4))
    completions = tuple(Completion((1, 1, 1), "x", True) for _ in range(8))
    made = dict(problems=problems, completions=completions, **columns(), policy_version=0)
    return Rollouts(**{**made, "origin_N": torch.zeros(8).long(), "view": ("clean",) * 8, **changes})


def scored() -> ScoredRollouts:
    return rollouts().with_verdicts((Verdict.WRONG,) * 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward_N": torch.zeros(2)}, r"Rollouts\.reward_N: expected \(8,\), got \(2,\)"),
        ({"keep_N": torch.zeros(8, 3)}, r"Rollouts\.keep_N: expected \(8,\), got \(8, 3\)"),
        (
            {"rewards": {"accuracy": torch.zeros(4)}},
            r"Rollouts\.rewards\['accuracy'\]: expected \(8,\), got \(4,\)",
        ),
        ({"logp": {"old": torch.zeros(8)}}, r"Rollouts\.logp\['old'\]: expected \(8, 3\), got \(8,\)"),
        ({"problems": ()}, "0 problems but 4 prompts"),
        ({"completions": ()}, "8 rows, 0 completions"),
        ({"verdicts": (Verdict.WRONG,)}, "8 completions, 1 verdicts"),
        ({"view": ("clean",)}, "8 rows, 8 completions, 1 views"),
        ({"origin_N": torch.zeros(3)}, r"Rollouts\.origin_N: expected \(8,\), got \(3,\)"),
        ({"adv_NT": torch.zeros(8)}, r"Rollouts\.adv_NT: expected \(8, 3\) or \(8, 1\), got \(8,\)"),
    ],
)
def test_a_wrong_rollout_column_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        scored().with_(**change)


def test_an_unknown_column_is_refused_and_the_old_rollouts_stay():
    before = scored()
    with pytest.raises(TypeError, match="rewrad_N"):
        before.with_(rewrad_N=torch.zeros(8))
    after = before.with_(reward_N=torch.ones(8))
    assert before.reward_N.isnan().all() and after.reward_N.sum() == 8


def test_scored_rollouts_begin_with_columns_that_change_nothing():
    generated = rollouts()
    begun = generated.with_verdicts([Verdict.CORRECT] * 8)
    assert begun.verdicts == (Verdict.CORRECT,) * 8 and begun.ids_NT is generated.ids_NT
    assert begun.rewards == {} and begun.reward_N.isnan().all() and begun.keep_N.all()
    assert begun.adv_NT.tolist() == [[0.0]] * 8 and begun.logp == {} and begun.stats == {}
    assert (begun.token_weight_NT == 1).all() and (begun.sample_weight_N == 1).all()


def test_every_row_has_its_problem():
    assert [problem.id for problem in rollouts().row_problems] == ["0", "0", "1", "1", "2", "2", "3", "3"]


def test_prompts_and_sft_batches_check_themselves():
    text = prompts()
    with pytest.raises(ValueError, match=r"Prompts\.mask_PL: expected \(4, 5\), got \(4, 4\)"):
        Prompts(text.ids_PL, text.mask_PL[:, 1:], text.token_type_PL, text.images_P)
    with pytest.raises(ValueError, match=r"Prompts\.images_P: expected \(4,\), got \(3,\)"):
        Prompts(text.ids_PL, text.mask_PL, text.token_type_PL, text.images_P[:3])
    with pytest.raises(ValueError, match=r"Prompts\.image_grid_thw: expected \(0, 3\), got \(2, 3\)"):
        Prompts(
            text.ids_PL, text.mask_PL, text.token_type_PL, text.images_P, {"image_grid_thw": torch.ones(2, 3)}
        )
    with pytest.raises(ValueError, match=r"SFTBatch\.mask_NT: expected \(4, 2\), got \(4, 3\)"):
        SFTBatch(text, torch.ones(4, 2), torch.ones(4, 3))
    with pytest.raises(ValueError, match="SFTBatch: 4 prompts for 3 responses"):
        SFTBatch(text, torch.ones(3, 2), torch.ones(3, 2))


def with_images() -> Prompts:
    """Four problems with 1, 0, 2 and 1 images of 4, 8, 4 and 16 patches; patch rows are numbered, so that a slice can be seen."""
    grid = torch.tensor([[1, 2, 2], [1, 2, 4], [1, 2, 2], [1, 4, 4]])
    vision = {"pixel_values": torch.arange(32.0)[:, None], "image_grid_thw": grid}
    ids = torch.tensor([[0, 0, 1, 2], [0, 0, 0, 3], [4, 5, 6, 7], [0, 8, 9, 10]])
    return Prompts(ids, (ids > 0).long(), torch.zeros_like(ids), torch.tensor([1, 0, 2, 1]), vision)


def test_select_repeats_rows_with_their_own_images():
    chosen = with_images().select([3, 0, 3])
    assert chosen.ids_PL.tolist() == [[8, 9, 10], [0, 1, 2], [8, 9, 10]]  # padding that all share is cut
    assert chosen.mask_PL.tolist() == [[1, 1, 1], [0, 1, 1], [1, 1, 1]]
    assert chosen.images_P.tolist() == [1, 1, 1]
    assert chosen.vision["image_grid_thw"].tolist() == [[1, 4, 4], [1, 2, 2], [1, 4, 4]]
    assert chosen.vision["pixel_values"][:, 0].tolist() == [*range(16, 32), *range(4), *range(16, 32)]


def test_select_keeps_two_images_together_and_drops_vision_where_there_is_none():
    two = with_images().select([1, 2])
    assert two.images_P.tolist() == [0, 2] and two.vision["pixel_values"][:, 0].tolist() == [*range(4, 16)]
    assert two.ids_PL.shape == (2, 4)
    none = with_images().select([1])
    assert none.ids_PL.tolist() == [[3]] and dict(none.vision) == {}
    assert len(with_images().select([])) == 0


def test_select_everything_is_the_identity(render, mixed):
    whole = render(mixed)
    same = whole.select(range(len(mixed)))
    assert torch.equal(same.ids_PL, whole.ids_PL) and torch.equal(same.token_type_PL, whole.token_type_PL)
    assert same.vision.keys() == whole.vision.keys()
    assert all(torch.equal(same.vision[name], value) for name, value in whole.vision.items())


def test_select_equals_rendering_only_those_problems(render, mixed):
    for rows in ([0], [1], [2], [3, 1], [2, 0, 2], [1, 3, 2, 0]):
        part, own = render(mixed).select(rows), render([mixed[row] for row in rows])
        for name in ("ids_PL", "mask_PL", "token_type_PL", "images_P"):
            assert torch.equal(getattr(part, name), getattr(own, name)), (rows, name)
        assert part.vision.keys() == own.vision.keys()
        assert all(torch.equal(part.vision[name], value) for name, value in own.vision.items()), rows


def test_repeated_ids_are_refused():
    check_unique_ids([Problem("a", "?", "1"), Problem("b", "?", "1")], "data")
    with pytest.raises(UserError, match="data: id 'a' occurs twice"):
        check_unique_ids([Problem("a", "?", "1"), Problem("a", "?", "2")], "data")
