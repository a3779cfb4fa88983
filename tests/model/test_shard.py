"""A model cut over two, three or four processes computes what one process computes; see tests/helpers/sharded.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from openvlt.errors import UserError
from openvlt.memory.shares import Shares, byte_count
from openvlt.model.load import VLM
from openvlt.model.shard import shard_model
from openvlt.model.strategy import Strategy
from openvlt.trainer.loop import TrainingLoop
from tests.helpers import algorithms, sharded

CLOCKS = {"elapsed_s", "generate_s", "reward_s", "tokens_per_s", "memory_gib", "wait_s"}
Found = dict[int, dict[str, dict[str, Any]]]


def compute(folder: Path, amount: str) -> Found:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, sharded.__file__, str(folder), amount]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    files = sorted(folder.glob("found*.pt"))
    return {int(file.stem[5:]): torch.load(file, weights_only=False) for file in files}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What one and two processes found, by their number: the checks that `make test` can afford."""
    return compute(tmp_path_factory.mktemp("few"), "few")


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """All checks, with one, two, three and four processes."""
    return compute(tmp_path_factory.mktemp("all"), "all")


@pytest.fixture(scope="module")
def start() -> dict[str, torch.Tensor]:
    return dict(algorithms.tiny_model(torch.float32).model.named_parameters())


def distance(one: dict, other: dict, start: dict) -> float:
    """How far two trained models are from each other, in what training moved them."""
    apart = sum(float((one[name] - other[name]).double().square().sum()) for name in other)
    moved = sum(
        float((other[name] - start.get(name, 0 * other[name])).double().square().sum()) for name in other
    )
    assert moved > 0
    return (apart / moved) ** 0.5


def check_training(many: dict, one: dict, start: dict) -> None:
    assert many["norms"] == pytest.approx(one["norms"], rel=1e-5)
    assert distance(many["weights"], one["weights"], start) < 1e-3


def check_grpo(many: dict, one: dict, start: dict) -> None:
    assert all(many["cut"]) and len(many["rows"]) == 3
    assert any(row["grad_norm"] > 0 for row in many["rows"])
    for here, there in zip(many["rows"], one["rows"], strict=True):
        assert here.keys() == there.keys()
        for name in here.keys() - CLOCKS:
            assert here[name] == pytest.approx(there[name], rel=1e-3, abs=1e-5, nan_ok=True), name
    assert distance(many["weights"], one["weights"], start) < 1e-2


def test_two_processes_train_as_one(few: Found, start: dict) -> None:
    one, two = few[1], few[2]
    check_training(two["sft weights"], one["sft weights"], start)
    check_grpo(two["grpo paper weights"], one["grpo paper weights"], start)
    check_grpo(two["grpo ahead"], one["grpo ahead"], start)
    assert [row["rollout_age"] for row in two["grpo ahead"]["rows"]] == [0, 1, 1]
    for name in sharded.FAMILY:
        other = dict(sharded.tiny_family(torch.float32, name).model.named_parameters())
        check_training(two[f"sft {name}"], one[f"sft {name}"], other)


def test_a_process_holds_half_of_everything_before_and_after(few: Found) -> None:
    found = few[2]["sft weights"]
    whole, trained = found["bytes"]
    assert trained <= 1.05 * whole / 2 and found["bytes after"] == trained and found["bytes whole"] == whole
    assert few[2]["flags"]["rest"] == trained and few[2]["flags"]["whole"] == whole
    assert few[2]["rollouts 3"]["at rest"] == trained


def test_the_plan_knows_what_a_process_holds(few: Found) -> None:
    made = algorithms.tiny_model(torch.float32)
    buffers = byte_count(made.model.buffers())
    for number in (1, 2):
        held = few[number]["sft weights"]["bytes"][1]
        assert Shares(number).bytes_at_rest(made) - buffers == pytest.approx(
            held, rel=0.02
        )  # uneven rows are padded
    whole = few[2]["flags"]["whole"]
    assert Shares(2).bytes_in_rollout(made) == whole and Shares().bytes_in_rollout(made) == 0
    assert 0 < Shares(2).bytes_in_step(made) <= Shares(2, whole_in_step=True).bytes_in_step(made)
    assert Shares().bytes_in_step(made) == 0


def test_gradients_are_added_up_in_every_group(few: Found) -> None:
    sums = few[2]["flags"]["sums"]
    assert len(sums) >= 4 and set(sums) == {(1.0, True)}


def test_rollouts_do_not_depend_on_the_number_of_processes(few: Found) -> None:
    one, two = few[1]["rollouts 3"], few[2]["rollouts 3"]
    assert two["tokens"] == one["tokens"] and two["logp"] == one["logp"]
    assert len({len(tokens) for tokens in one["tokens"]}) > 1, "all completions are equally long"


def test_a_plain_copy_is_the_model_in_every_parameter_and_buffer(few: Found) -> None:
    one, two = few[1]["copied"], few[2]["copied"]
    for name in ("state", "buffers"):
        assert one[name].keys() == two[name].keys()
        assert all(torch.equal(value, two[name][key]) for key, value in one[name].items())
    assert one["trained"] == two["trained"] and set(one["trained"].values()) == {True, False}


def check_loaded(many: dict, one: dict, processes: int) -> None:
    for name in ("state", "trained"):
        assert many[name].keys() == one[name].keys()
    assert all(torch.equal(value, one["state"][name]) for name, value in many["state"].items())
    assert many["trained"] == one["trained"]
    for buffers in many["buffers"]:
        assert buffers.keys() == one["buffers"][0].keys() and any("inv_freq" in name for name in buffers)
        assert all(torch.equal(value, one["buffers"][0][name]) for name, value in buffers.items())
    assert torch.equal(many["logits"], one["logits"]) and torch.equal(many["features"], one["features"])
    assert len(many["read"]) == 1, "the main process alone reads a checkpoint"
    for name in ("generation", "attention", "mode"):
        assert many[name] == one[name] * processes
    assert one["generation"] == [7]
    assert len(many["refused"]) == processes and all("no config.json" in text for text in many["refused"])


def test_one_process_reads_a_model_and_each_holds_its_shards(few: Found) -> None:
    check_loaded(few[2]["loaded"], few[1]["loaded"], 2)


@pytest.mark.slow
@pytest.mark.parametrize("check", ["untied", "frozen", "half"])
def test_every_kind_of_model_is_read_by_one_process(every: Found, check: str) -> None:
    check_loaded(every[2][f"loaded {check}"], every[1][f"loaded {check}"], 2)


@pytest.mark.slow
def test_uneven_shards_and_replicas_are_read_by_one_process(every: Found) -> None:
    check_loaded(every[3]["loaded untied"], every[1]["loaded untied"], 3)
    check_loaded(every[4]["loaded hybrid"], every[1]["loaded hybrid"], 4)


def test_one_process_goes_on_where_two_were_killed(few: Found, start: dict) -> None:
    assert distance(few[1]["resume 2"]["weights"], few[1]["whole run"]["weights"], start) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [
        "sft none",
        "sft gradients",
        "sft weights",
        "sft muon",
        "sft frozen",
        "sft text",
        "sft untied",
        "sft selective",
    ],
)
def test_every_way_of_training(every: Found, start: dict, check: str) -> None:
    check_training(every[2][check], every[1][check], start)


@pytest.mark.slow
@pytest.mark.parametrize("check", sharded.UNEVEN)
def test_three_processes_have_uneven_and_empty_shards(every: Found, start: dict, check: str) -> None:
    three, one = every[3][check], every[1][check]
    if "norms" in three:
        check_training(three, one, start)
        assert three["bytes"][1] <= 1.1 * three["bytes"][0] / 3
    elif "rows" in three:
        check_grpo(three, one, start)
    else:
        assert three["tokens"] == one["tokens"] and three["logp"] == one["logp"]


@pytest.mark.slow
def test_two_groups_of_two_processes_hold_the_same_shards(every: Found, start: dict) -> None:
    found = every[4]["sft hybrid"]
    check_training(found, every[1]["sft hybrid"], start)
    assert found["bytes"][1] <= 1.05 * found["bytes"][0] / 2


@pytest.mark.slow
@pytest.mark.parametrize("case", ["paper", "replay"])
@pytest.mark.parametrize("shard", ["none", "weights"])
def test_grpo_with_rollouts_and_reference(every: Found, start: dict, case: str, shard: str) -> None:
    many, one = every[2][f"grpo {case} {shard}"], every[1][f"grpo {case} {shard}"]
    assert many.pop("cut") == [shard == "weights"] * (2 if case == "paper" else 1)
    check_grpo(many | {"cut": []}, one, start)


@pytest.mark.slow
def test_a_frozen_tower_stays_whole_and_out_of_the_messages(every: Found) -> None:
    found = every[2]["sft frozen"]
    assert not any("visual" in name for name in found["cut"]) and found["cut"]
    assert found["bytes"][0] / 2 < found["bytes"][1] < found["bytes"][0]


@pytest.mark.slow
@pytest.mark.parametrize("check", ["sft lora", "sft lora replicate"])
def test_an_adapter_is_trained_switched_off_and_merged(every: Found, start: dict, check: str) -> None:
    two, one = every[2][check], every[1][check]
    assert two["norms"] == pytest.approx(one["norms"], rel=1e-5)
    trained = [name for name in one["weights"] if "lora" in name]
    assert (
        trained and distance(*({n: run["weights"][n] for n in trained} for run in (two, one)), start) < 1e-3
    )
    assert torch.equal(two["adapter off"], one["adapter off"])


@pytest.mark.slow
def test_weights_of_16_bits_have_masters_of_32(every: Found, start: dict) -> None:
    two, one = every[2]["sft half"], every[1]["sft half"]
    assert two["norms"] == pytest.approx(one["norms"], rel=1e-2)
    assert all(value.dtype == torch.bfloat16 for value in two["weights"].values())
    assert two["bytes"][1] <= 1.05 * two["bytes"][0] / 2


@pytest.mark.slow
def test_a_killed_training_goes_on_with_any_number_of_processes(every: Found, start: dict) -> None:
    whole = every[2]["whole run"]["weights"]
    assert all(torch.equal(value, whole[name]) for name, value in every[2]["resume 2"]["weights"].items())
    for found in (every[2]["resume 1"], every[1]["resume 2"]):
        assert distance(found["weights"], every[1]["whole run"]["weights"], start) < 1e-3


@pytest.mark.parametrize("settings", [{"shard": "full"}, {"tower": "half"}, {"replicas": 0}])
def test_unknown_words_are_refused(settings: dict) -> None:
    with pytest.raises(UserError, match=rf"strategy\.{next(iter(settings))}="):
        Strategy(**settings)


def test_a_trained_tower_cannot_stay_whole(fresh: Any) -> None:
    with pytest.raises(UserError, match="the vision tower is trained"):
        shard_model(fresh(), Strategy("weights", tower="whole"))


def test_replicas_divide_the_processes(vlm: VLM) -> None:
    with pytest.raises(UserError, match=r"strategy\.replicas=3.*processes is 1"):
        shard_model(vlm, Strategy("weights", replicas=3))
    with pytest.raises(UserError, match=r"strategy\.replicas=3.*processes is 4"):  # before a run begins
        TrainingLoop(accelerator="cpu", devices=4, strategy=Strategy("weights", replicas=3)).check()
