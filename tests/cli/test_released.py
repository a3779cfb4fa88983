"""The released v1.2 as a study: its stages, on the embedded model and rows of the same form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from openvlt.config.build import build
from openvlt.errors import UserError
from openvlt.iteration.stages import GRPOStage, ReleasedTraces
from tests.helpers.configs import compose
from tests.helpers.entry_scripts import MODEL, Cli

ROWS = 24


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sets: conversations for SFT, and problems with answers."""
    folder = tmp_path_factory.mktemp("released")
    rng = np.random.default_rng(0)
    for name in ("sft_iter3", "medium", "hard"):
        (folder / name).mkdir()
        rows = []
        for number in range(ROWS):
            picture = f"{number}.png"
            Image.fromarray(rng.integers(0, 256, (56, 56, 3), dtype=np.uint8)).save(folder / name / picture)
            answer, question = str(number % 2), f"<image>Is it {number}?"
            row = {"images": [picture], "problem": question, "answer": answer}
            if name == "sft_iter3":
                reply = f"<think>a</think><answer>{answer}</answer>"
                talk = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
                row = {"images": [picture], "messages": talk}
            rows.append(row)
        (folder / name / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def study_words(folder: Path) -> list[str]:
    """The experiment's stages and data at the embedded model's size."""
    return [
        "iteration=v1_2",
        "data=openvlthinker_v1_2",
        *(
            f"data.sources.{name}.path={folder / name / 'rows.jsonl'}"
            for name in ("sft_iter3", "medium", "hard")
        ),
        "evaluation.selection.sources={hard: 1}",
        "evaluation.selection.amount=1",
        *MODEL,
        *("tokens.response=40", "sft.epochs=30", "sft.optimizer.learning_rate=0.01", "sft.batch_size=8"),
        *("sft.micro_batch=8", "grpo=paper_v1_2", "grpo.prompts_per_rollout=8", "grpo.prompts_per_update=8"),
    ]


def test_each_stage_freezes_its_own_parts_and_counts_its_own_steps(
    cli: Cli, released: Path, tmp_path: Path
) -> None:
    quick = ["iteration.stages.medium.episodes=2", "iteration.stages.hard.episodes=3"]
    words = [f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}", "name=v1_2"]
    cli("train.py", *study_words(released), *quick, *words).ok()
    (run,) = (tmp_path / "runs" / "v1_2").iterdir()
    stages = {folder.name[3:]: folder for folder in run.iterdir() if folder.name[:2].isdigit()}
    results = {name: json.loads((folder / "results.json").read_text()) for name, folder in stages.items()}
    there = results["traces"]["distillation"]["traces"]
    assert 20 <= there < ROWS  # a twentieth, at least one row, is held out
    traces = [json.loads(line) for line in (stages["traces"] / "traces.jsonl").read_text().splitlines()]
    assert len(traces) == there and all(
        row["response"] == f"<think>a</think><answer>{row['answer']}</answer>" for row in traces
    )
    for name, episodes in (("medium", 2), ("hard", 3)):
        training = results[name]["training"]
        assert training["steps"] == episodes * (training["problems"] // 8)
    weights = {
        name: load_file(next(stages[name].rglob("*.safetensors"))) for name in ("sft", "medium", "hard")
    }
    for earlier, later, towers in (("sft", "medium", False), ("medium", "hard", True)):
        moved = {
            key for key, value in weights[later].items() if not torch.equal(value, weights[earlier][key])
        }
        assert any("visual" not in key for key in moved), f"{later} learned nothing"
        assert any("visual" in key for key in moved) is towers


def test_episodes_count_whole_rollout_batches() -> None:
    grpo = build(
        compose("grpo.prompts_per_rollout=8", "grpo.prompts_per_update=4", "grpo.steps=6").grpo, "grpo"
    )
    stage = GRPOStage(start="sft", select=None, episodes=5)
    assert stage.count_steps(grpo, 23) == 5 * 2 * 2 and GRPOStage("sft", None).count_steps(grpo, 23) == 6
    with pytest.raises(UserError, match="episodes=5 and settings.steps=3; give one of them"):
        GRPOStage(start="sft", select=None, episodes=5, settings={"steps": 3})
    with pytest.raises(UserError, match="episodes"):
        GRPOStage(start="sft", select=None, episodes=0)


def test_rows_with_bare_answers_are_no_traces(cli: Cli, released: Path) -> None:
    wrong = ["~iteration.stages.traces.select.sources", "+iteration.stages.traces.select.sources={medium: 1}"]
    error = cli("train.py", *study_words(released), *wrong, "name=bare").error
    assert "23 of 23 rows have a bare answer instead of a response, medium/" in error


def test_an_unknown_part_of_a_later_stage_is_told_before_the_first(cli: Cli, released: Path) -> None:
    wrong = cli("train.py", *study_words(released), "iteration.stages.hard.freeze=[vison]", "name=x").error
    assert "names ['vison']; parts are" in wrong


def test_the_experiment_has_the_releases_numbers() -> None:
    config = compose("+experiment=openvlthinker_v1_2")
    stages = build(config.iteration, "iteration").stages
    assert isinstance(stages["traces"], ReleasedTraces) and list(stages) == [
        *("base", "traces", "sft", "medium", "hard"),
    ]
    assert (stages["medium"].episodes, stages["hard"].episodes) == (5, 15)
    assert tuple(stages["sft"].freeze) == tuple(stages["medium"].freeze) == ("vision", "projector")
    assert tuple(stages["hard"].freeze) == ()
    sft, grpo = build(config.sft, "sft"), build(config.grpo, "grpo")
    assert (sft.batch_size, sft.warmup_ratio, config.sft.optimizer.learning_rate) == (16, 0.15, 5e-6)
    assert (grpo.group_size, grpo.prompts_per_rollout, grpo.prompts_per_update, grpo.kl) == (
        5,
        512,
        128,
        0.01,
    )
    assert (grpo.temperature, grpo.top_p, config.grpo.optimizer.learning_rate) == (1.0, 0.99, 1e-6)
    assert dict(grpo.reward.weights)["summary"] == 0.5
