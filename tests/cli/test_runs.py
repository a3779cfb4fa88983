"""Whole runs through the entry scripts: what they leave behind, how they stop and go on, and how one continues another."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file

from openvlt.trainer.metrics import read_metrics
from tests.helpers.entry_scripts import CYCLES, FIGURES, ITER1, Cli

CLOCKS = {
    "elapsed_s",
    "generate_s",
    "reward_s",
    "tokens_per_s",
    "memory_gib",
}  # the only columns that may differ between two runs of the same seed


def weights(stage: Path) -> dict[str, torch.Tensor]:
    return load_file(stage / "model" / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def loads_in_plain_transformers(folder: Path) -> None:
    """Model, tokenizer and image processor by transformers' own classes, and a token generated from a picture's size of nothing."""
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    assert not list(folder.glob("adapter*")) and not list(folder.glob("*.py"))
    assert "openvlt" not in "".join(file.read_text() for file in folder.glob("*.json")).lower()
    model, found = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"] and not found["mismatched_keys"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    AutoImageProcessor.from_pretrained(folder, backend="pil")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1 + 1?"}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(text, return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=3, do_sample=False).shape[1] > ids["input_ids"].shape[1]


# --- one finished run ---------------------------------------------------------------------------------------------------


def test_a_run_leaves_what_the_architecture_promises(iter1: Path) -> None:
    for name in (
        "config.yaml",
        "overrides",
        "manifest.json",
        "results.json",
        "report.html",
        "iterations.png",
    ):
        assert (iter1 / name).stat().st_size > 0, name
    assert [folder.name for folder in sorted(iter1.iterdir()) if folder.is_dir()] == [
        "00-base",
        "01-traces1",
        "02-sft1",
        "03-grpo1",
    ]
    assert "+experiment=iter1" in (iter1 / "overrides").read_text().splitlines()
    assert "${" not in (iter1 / "config.yaml").read_text()  # resolved: it reads the same tomorrow
    made = json.loads((iter1 / "manifest.json").read_text())
    assert (
        made["seed"] == 1
        and made["commit"]
        and made["command"][0] == "train.py"
        and made["versions"]["torch"] == torch.__version__
    )
    assert not list(iter1.rglob("*.tmp")) and not list(
        iter1.rglob("*.ckpt")
    )  # a finished stage needs no checkpoint to go on from


def test_every_stage_has_a_record_with_its_interval(iter1: Path) -> None:
    results = json.loads((iter1 / "results.json").read_text())
    assert (results["name"], results["scale"], results["seed"]) == ("iter1", "tiny", 1)
    records = {record["stage"]: record for record in results["stages"]}
    assert list(records) == ["base", "traces1", "sft1", "grpo1"]
    assert [records[name]["start"] for name in records] == [None, "base", "base", "sft1"]
    for name, record in records.items():
        assert record == json.loads(next(iter1.glob(f"*-{name}/results.json")).read_text())
        if name != "traces1":
            scored = record["evaluation"]
            assert (
                scored["n"] == 24
                and 0 <= scored["interval"][0] <= scored["accuracy"] <= scored["interval"][1] <= 1
            )
            assert len((next(iter1.glob(f"*-{name}")) / "rows.jsonl").read_text().splitlines()) == 24
    assert records["traces1"]["distillation"]["traces"] == 128
    assert records["sft1"]["training"] == {"steps": 32, "traces": 128, "epochs": 4, "findings": []}
    assert records["grpo1"]["training"]["steps"] == 8


def test_training_stages_leave_curves_transcripts_and_a_plain_checkpoint(iter1: Path) -> None:
    sft, grpo = (
        read_metrics(iter1 / "02-sft1" / "metrics.csv"),
        read_metrics(iter1 / "03-grpo1" / "metrics.csv"),
    )
    assert [row["step"] for row in sft] == list(range(1, 33)) and sft[-1]["loss"] < sft[0]["loss"] / 2
    assert [row["step"] for row in grpo] == list(range(1, 9))
    assert {"reward", "length", "kl", "entropy", "dropped_groups"} <= grpo[0].keys()
    assert grpo[0]["kl"] == 0 and grpo[-1]["kl"] > 0  # the reference is the policy that training started from
    said = parquet.read_table(iter1 / "03-grpo1" / "rollouts.parquet").to_pylist()
    assert sorted({row["step"] for row in said}) == [0, 2, 4, 6]  # one rollout serves two updates
    assert all(row["response"] is not None and row["verdict"] for row in said)
    assert not same(weights(iter1 / "02-sft1"), weights(iter1 / "03-grpo1"))
    for stage in ("02-sft1", "03-grpo1"):
        loads_in_plain_transformers(iter1 / stage / "model")


def test_resuming_a_finished_run_does_nothing(cli: Cli, iter1: Path) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        return {
            str(file): (file.stat().st_mtime_ns, file.read_bytes())
            for file in iter1.rglob("*")
            if file.is_file()
        }

    before = state()
    done = cli("train.py", f"resume={iter1}", tiny=False).ok()
    assert done.out.count("finished before: skipped") == 4
    after = state()
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []


# --- cut off, and continued ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_interrupted_and_killed_run_ends_with_the_same_bits(cli: Cli, iter1: Path, tmp_path: Path) -> None:
    def rows() -> int:
        file = next(tmp_path.glob("runs/iter1/*/03-grpo1/metrics.csv"), None)
        return 0 if file is None else len(file.read_text().splitlines()) - 1

    def pause(lines: int) -> tuple[Path, str, int]:
        return tmp_path, "runs/iter1/*/03-grpo1/metrics.csv", 1 + lines

    words = ["+experiment=iter1", *ITER1, f"paths.runs={tmp_path / 'runs'}"]
    done = cli.start("train.py", *words, pause=pause(1)).at_pause().end_by(signal.SIGINT)
    assert done.status == 130 and "Traceback" not in done.err, done.err
    command = shlex.split(
        re.search(r"python (train\.py resume=.*)", done.err)[1]
    )  # the very words that the user is told to type
    folder = Path(command[1].removeprefix("resume="))
    assert not (folder / "03-grpo1" / "results.json").exists() and not (folder / "results.json").exists()

    enough = max(3, rows() + 1)
    done = cli.start(*command, tiny=False, pause=pause(enough)).at_pause().end_by(signal.SIGKILL)
    assert done.status == -signal.SIGKILL and not (folder / "03-grpo1" / "model").exists()

    done = cli(*command, tiny=False).ok()
    assert done.out.count("finished before: skipped") == 3  # base, traces and SFT
    for stage in ("02-sft1", "03-grpo1"):
        assert same(weights(folder / stage), weights(iter1 / stage)), stage
        plain = [
            [
                {k: v for k, v in row.items() if k not in CLOCKS}
                for row in read_metrics(run / stage / "metrics.csv")
            ]
            for run in (folder, iter1)
        ]
        assert repr(plain[0]) == repr(plain[1])  # NaN equals NaN here
    said = [parquet.read_table(run / "03-grpo1" / "rollouts.parquet").to_pylist() for run in (folder, iter1)]
    assert said[0] == said[1]


# --- one run continues another ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_iter2_sweeps_from_the_newest_iter1(cli: Cli, iter1: Path) -> None:
    policy = [
        "distill@self_distill=policy",
        "cycles.two.traces.amount=64",
        "sft.batch_size=4",
        "sft.epochs=1",
    ]  # traces by grpo1 itself, looking at the image
    done = cli(
        "train.py",
        "experiment=iter2",
        *FIGURES,
        *(change for change in CYCLES if "self_distill" not in change),
        *policy,
        "-m",
    ).ok()
    assert "Traceback" not in done.err
    runs = sorted((cli.work / "runs" / "iter2").glob("*/results.json"))
    assert len(runs) == 2
    assert sorted(json.loads(file.read_text())["seed"] for file in runs) == [
        1,
        2,
    ]  # the experiment's own sweep
    for file in runs:
        records = {record["stage"]: record for record in json.loads(file.read_text())["stages"]}
        assert list(records) == ["traces2", "sft2", "grpo2"]
        assert records["traces2"]["start"] == "grpo1" and records["traces2"]["distillation"]["traces"] > 0
        assert (file.parent / "02-grpo2" / "model" / "config.json").is_file()
    assert (
        len({(file.parent / "00-traces2" / "traces.jsonl").read_text() for file in runs}) == 2
    )  # each seed its own problems and samples


def test_iter2_without_iter1_says_what_to_run_first(cli: Cli, tmp_path: Path) -> None:
    said = cli("train.py", "+experiment=iter2", f"paths.runs={tmp_path / 'empty'}", *FIGURES, *CYCLES).error
    assert (
        "there is no finished run" in said
        and "python train.py +experiment=iter1" in said
        and "iteration.previous=" in said
    )


def test_the_previous_run_is_the_newest_finished_one(tmp_path: Path) -> None:
    from openvlt.runs.directory import previous_run

    for name, seed in (("20250101-000000-a", 1), ("20250102-000000-b", 2), ("20250103-000000-c", None)):
        (tmp_path / "iter1" / name).mkdir(parents=True)
        (tmp_path / "iter1" / name / "config.yaml").touch()
        if seed is not None:
            (tmp_path / "iter1" / name / "results.json").write_text(json.dumps({"seed": seed}))
    assert previous_run("iter1", tmp_path, 9).name == "20250102-000000-b"
    assert previous_run("iter1", tmp_path, 1).name == "20250101-000000-a", (
        "a run with the same seed comes first"
    )
    assert (
        previous_run(str(tmp_path / "iter1" / "20250101-000000-a"), tmp_path, 2).name == "20250101-000000-a"
    )
    assert previous_run(None, tmp_path, 1) is None


# --- evaluate.py and distill.py -----------------------------------------------------------------------------------------


def answers(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return [{name: row[name] for name in ("id", "response", "verdict", "tokens")} for row in rows]


def test_evaluate_a_run_with_either_generator(cli: Cli, iter1: Path) -> None:
    cli("evaluate.py", f"model={iter1}", "data=figures", *FIGURES).ok()
    prefix = cli.newest("evaluate")
    done = cli("evaluate.py", f"model={iter1}", "data=figures", "rollout=hf", *FIGURES).ok()
    results = json.loads((cli.newest("evaluate") / "results.json").read_text())
    assert cli.newest("evaluate") != prefix
    assert results["model"] == str(iter1 / "03-grpo1" / "model")  # the run's last model
    assert answers(prefix) == answers(cli.newest("evaluate"))
    recorded = json.loads((iter1 / "03-grpo1" / "results.json").read_text())["evaluation"]
    assert {name: results[name] for name in recorded} == recorded  # the same score as at the end of training
    assert re.search(r"accuracy [\d.]+ %  \(95 %: [\d.]+ to [\d.]+\)  n 24", done.out)
    assert "finished before: nothing to do" in cli("evaluate.py", f"resume={prefix}", tiny=False).ok().out


def test_evaluate_rows_of_ones_own_with_choices(
    cli: Cli, iter1: Path, picture: Callable[..., str], tmp_path: Path
) -> None:
    rows = [
        {
            "id": f"own-{n}",
            "question": "Which colour?",
            "answer": "B",
            "choices": ["red", "blue"],
            "images": [picture(f"{n}.png", size=40 + 30 * n)],
        }
        for n in range(6)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = [
        "data=jsonl",
        f"data.path={tmp_path / 'rows.jsonl'}",
        "evaluation.selection.split=train",
    ]  # the documented command
    cli("evaluate.py", f"model={iter1}", *written, f"paths.runs={cli.work / 'runs'}", tiny=False).ok()
    results = json.loads((cli.newest("evaluate") / "results.json").read_text())
    assert results["n"] == 6 and sum(results["verdicts"].values()) == 6
    assert sorted(row["id"] for row in answers(cli.newest("evaluate"))) == [f"own-{n}" for n in range(6)]


def test_a_benchmarks_run_is_resumed_by_its_folder_alone(
    cli: Cli, picture: Callable[..., str], tmp_path: Path
) -> None:
    """The command that Ctrl-C prints names no benchmark; held-out figures must not be scored into the benchmark's folder."""
    row = {
        "question": "How many?",
        "options": [],
        "level": 1,
        "subject": "counting",
        "image": picture("0.png", size=60),
    }
    (tmp_path / "test.jsonl").write_text(
        "".join(json.dumps({"id": str(n), "answer": str(n), **row}) + "\n" for n in range(2))
    )
    (tmp_path / "said.jsonl").write_text(
        "".join(json.dumps({"id": str(n), "response": "1"}) + "\n" for n in range(2))
    )
    cli(
        "evaluate.py", "benchmark=mathvision", f"data_dir={tmp_path}", f"responses={tmp_path / 'said.jsonl'}"
    ).ok()
    folder = cli.newest("evaluate")
    results = (folder / "results.json").read_bytes()
    done = cli("evaluate.py", f"resume={folder}", tiny=False).ok()
    assert "finished before: nothing to do" in done.out and (folder / "results.json").read_bytes() == results
    (folder / "results.json").unlink()  # as if cut off before its end
    cli("evaluate.py", f"resume={folder}", tiny=False).ok()
    assert (folder / "results.json").read_bytes() == results and not (folder / "rows.jsonl").exists()


def test_distill_writes_rows_that_training_and_evaluation_read(cli: Cli) -> None:
    done = cli(
        "distill.py", "distill=gold", *FIGURES, "cycles.one.traces.amount=20", "cycles.one.traces.levels=[1]"
    ).ok()
    folder = cli.newest("distill")
    assert json.loads((folder / "results.json").read_text())["traces"] == 20 and "traces.jsonl" in done.out
    rows = [json.loads(line) for line in (folder / "traces.jsonl").read_text().splitlines()]
    assert len(rows) == 20 and all(
        row["response"].endswith(f"<answer>{row['answer']}</answer>") for row in rows
    )

    from openvlt.data.rows.schema import read_traces
    from openvlt.data.sources.base import Selection
    from openvlt.data.sources.local import LocalRows

    read = LocalRows(str(folder / "traces.jsonl")).problems(Selection(), 0)
    assert {(p.id, p.question, p.answer) for p in read} == {
        (row["id"], row["question"], row["answer"]) for row in rows
    }
    assert all(p.images[0].is_file() for p in read)
    assert [trace.response for trace in read_traces(folder / "traces.jsonl")] == [
        row["response"] for row in rows
    ]


# --- variants -----------------------------------------------------------------------------------------------------------


def test_lora_leaves_a_merged_plain_checkpoint(cli: Cli, iter1: Path) -> None:
    """`experiment=` without the plus, from a run's model; SFT and GRPO through an adapter, the reference being the adapter off."""
    few = [
        "+iteration.stages.traces.select.amount=64",
        "grpo.kl=0.01",
        "iteration.stages.grpo.settings.max_new_tokens=8",
    ]
    gentle = ["sft.optimizer.learning_rate=1e-4", "sft.optimizer.muon_learning_rate=1e-3"]
    cli("train.py", "experiment=smoke", "adapter=lora", f"model={iter1}", *FIGURES, *few, *gentle).ok()
    run = cli.newest("smoke")
    for stage in ("01-sft", "02-grpo"):
        loads_in_plain_transformers(run / stage / "model")
    base, tuned, trained = weights(iter1 / "03-grpo1"), weights(run / "01-sft"), weights(run / "02-grpo")
    inner = {
        name
        for name in base
        if re.search(r"layers\.\d+\.\w+\.(q|k|v|o|gate|up|down)_proj\.weight$", name) and "visual" not in name
    }
    for before, after in ((base, tuned), (tuned, trained)):
        assert before.keys() == after.keys()
        assert {name for name in before if not torch.equal(before[name], after[name])} == inner
    kl = [row["kl"] for row in read_metrics(run / "02-grpo" / "metrics.csv")]
    assert len(kl) == 3 and kl[0] == pytest.approx(0, abs=1e-6) and kl[-1] > 0


@pytest.mark.slow
def test_a_sweep_of_two_jobs_makes_two_folders(
    cli: Cli, iter1: Path, picture: Callable[..., str], tmp_path: Path
) -> None:
    """On rows of one's own, with a column mapping, without a KL term; GRPO's groups may all be equal, and the run still ends."""
    rows = [
        {"n": n, "problem": f"What is {n} + 1?", "solution": n + 1, "picture": picture(f"{n}.png", size=60)}
        for n in range(16)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    columns = [
        "data.columns.question=problem",
        "data.columns.answer=solution",
        "data.columns.images=[picture]",
        "data.columns.id=n",
    ]
    small = ["name=own", f"model={iter1}", "evaluation.selection.amount=16"]
    done = cli(
        "train.py",
        "+experiment=smoke",
        "seed=3,4",
        "data=jsonl",
        f"data.path={tmp_path / 'rows.json'}",
        *columns,
        *small,
        "-m",
    ).ok()
    folders = sorted((cli.work / "runs" / "own").glob("*/results.json"))
    assert [
        json.loads(file.read_text())["seed"]
        for file in sorted(folders, key=lambda file: file.parent.name[-1])
    ] == [3, 4]
    assert done.out.count("scale=tiny:") == 2
    for file in folders:
        assert (file.parent / "report.html").is_file() and len(
            read_metrics(file.parent / "02-grpo" / "metrics.csv")
        ) == 3


@pytest.mark.slow
def test_smoke_on_real_problems(cli: Cli, data_dir: Path) -> None:
    """SFT and GRPO steps on 16 of 60 real K12 problems, with images of all sizes."""
    rows = data_dir / "train_sources" / "mm_eureka_k12" / "k12.json"
    cli(
        "train.py",
        "+experiment=smoke",
        "data=jsonl",
        f"data.path={rows}",
        "name=k12",
        "evaluation.selection.amount=16",
    ).ok()
    run = cli.newest("k12")
    records = {record["stage"]: record for record in json.loads((run / "results.json").read_text())["stages"]}
    assert (
        records["traces"]["distillation"]["problems"] == 16
        and records["traces"]["distillation"]["traces"] >= 14
    )
    assert len(read_metrics(run / "02-grpo" / "metrics.csv")) == 3
