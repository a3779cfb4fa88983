"""Run folders as large and as hostile as a page must bear."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tests.helpers.run_folders import evaluation, lines, result

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> \u202eabc\u2066 & <b>"
GROUPS, SIZE = 2, 4
MANIFEST = {
    "command": ["train.py", "+experiment=iter1", "seed=3"],
    "commit": "abc123",
    "versions": {"torch": "2.13.0"},
    "seed": 3,
}


def completion(step: int, problem: str, number: int, **more: Any) -> dict[str, Any]:
    """One row of rollouts.jsonl; number 0 is right in the problems that are mixed."""
    right = number == 0 and not problem.startswith("hard")
    row = {
        "step": step, "groups": 32, "problem": problem, "source": "bars", "level": 1 + int(problem[-1]) % 2,
        "question": f"What does {problem} show?", "gold": "5", "response": f"<think>step {step} of {problem}</think><answer>{5 if right else 4}</answer>",
        "tokens": 10 + number, "finished": number != 3, "origin": "policy", "verdict": "correct" if right else "wrong", "extracted": "5" if right else "4",
        "explanation": [f"{'verdict':18}{'correct' if right else 'wrong'}", f"{'extracted':18}{5 if right else 4}", f"{'decided by':18}numbers: they are equal"],
        "reward": 1.0 if right else 0.0, "reward_accuracy": 1.0 if right else 0.0, "reward_overlong": None, "advantage": 1.5 if right else -0.5 - number / 10,
        "kept": not problem.startswith("hard"), "images": ["images/one.png"],
    }  # fmt: skip
    return row | more


def rollout_rows(steps: int = 12) -> list[dict[str, Any]]:
    """Each step has a mixed problem and one that nobody solves."""
    names = [("q7" if step == 11 else f"easy{step % 3}", f"hard{step % 2}") for step in range(steps)]
    rows = [
        completion(step, name, number)
        for step in range(steps)
        for name in names[step]
        for number in range(SIZE)
    ]
    rows[0]["response"] = rows[0]["question"] = EVIL
    return rows


def answer_rows(count: int, stage: int) -> list[dict[str, Any]]:
    """Rows of rows.jsonl: of every ten, the stages 0, 1, 2 get 2, 4, 5 right; one has no answer."""
    right = (2, 4, 5)[stage]
    rows = []
    for number in range(count):
        verdict = "correct" if number % 10 < right else "no_answer" if number % 10 == 9 else "wrong"
        rows.append({
            "id": f"r{number}", "source": "bars", "level": 1 + number % 4, "answer_type": None, "choices": ["a", "b"] if number % 2 else None,
            "question": f"Question {number}?", "gold": "5", "response": f"stage {stage} said {number}", "verdict": verdict, "extracted": "4", "tokens": 7,
            "explanation": [f"{'verdict':18}{verdict}", f"{'decided by':18}numbers: read"], "finished": True,
            **({"images": ["images/one.png"]} if number < 60 else {}),
        })  # fmt: skip
    rows[3]["response"] = EVIL
    return rows


def metrics_text(steps: int) -> str:
    """A metrics.csv of GRPO with all columns that have a panel."""
    names = "step loss reward reward_accuracy groups_all_wrong groups_mixed groups_all_right length_correct length_other verdict_correct verdict_wrong entropy grad_norm generate_s reward_s tokens_per_s dropped_groups elapsed_s reward_overlong".split()
    text = [",".join(names)]
    for step in range(1, steps + 1):
        values = [
            step,
            1 / step,
            step / steps,
            step / steps,
            0.5 - step / 100,
            0.4,
            0.1 + step / 100,
            12.5,
            "nan" if step == 2 else 14,
            0.3,
            0.7,
            1 / step,
            0.5,
            2,
            1,
            100,
            0.25,
            4 * step,
            0.5,
        ]
        text.append(",".join(map(str, values)))
    return "\n".join(text) + "\n"


def write_big_run(
    runs: Path,
    *,
    name: str = "iter1",
    seed: int = 3,
    rows: int = 3000,
    state: Mapping[str, Any] | None = None,
) -> Path:
    """A run of base, SFT and GRPO with so many evaluated rows and 12 steps of rollouts; `state` replaces the finished one."""
    folder = runs / name / f"20260101-00000{seed}-abcd"
    records = [
        result("base", "base", evaluation(20)),
        result("sft1", "sft", evaluation(40), "base"),
        result("grpo1", "grpo", evaluation(50), "sft1"),
    ]
    for number, record in enumerate(records):
        stage = folder / f"{number:02d}-{record['stage']}"
        (stage / "images").mkdir(parents=True)
        Image.new("RGB", (40, 30), (40 * number, 90, 160)).save(stage / "images" / "one.png")
        if not (state and number == 2):
            (stage / "results.json").write_text(json.dumps(record))
            (stage / "rows.jsonl").write_text(lines(answer_rows(rows, number)))
    (folder / "02-grpo1" / "metrics.csv").write_text(metrics_text(12))
    (folder / "02-grpo1" / "rollouts.jsonl").write_text(lines(rollout_rows()))
    (folder / "manifest.json").write_text(json.dumps(MANIFEST | {"seed": seed}))
    (folder / "overrides").write_text(f"+experiment=iter1\nseed={seed}\npaths.runs=/somewhere\n")
    (folder / "config.yaml").write_text(
        f"name: {name}\nseed: {seed}\ngrpo: {{reward: {{weights: {{accuracy: 1.0, overlong: 0.5}}}}}}\ntrainer: {{checkpoint_every: 4}}\niteration: {{stages: {{base: {{}}, sft1: {{}}, grpo1: {{}}}}}}\n"
    )
    if state:
        (folder / "02-grpo1" / "progress.json").write_text(
            json.dumps({"steps": 40, "first": 0, "elapsed_s": 0.0})
        )
        (folder / "state.json").write_text(json.dumps({"since": time.time(), **state}))
    else:
        (folder / "results.json").write_text(
            json.dumps({"name": name, "scale": "tiny", "seed": seed, "stages": records})
        )
        (folder / "state.json").write_text(json.dumps({"state": "finished", "since": time.time()}))
    return folder
