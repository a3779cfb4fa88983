"""Verifier against Math-Verify and MathRuler on recorded answers, interleaved row by row in one process.

Command: `python bench/verify.py [--rows N]`, with `pip install "math-verify[antlr4_13_2]" mathruler` in the
same environment to have the peers (bench-only; they need another antlr than hydra, so give the bench its own
environment). Writes bench/results/verify.json: accuracy on the hand-decided cases by category, agreement with
the official verdicts, then verdicts per second, median, p99, maximum. Data: the folder named by
OPENVLT_TEST_DATA (default ../shared/data).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
DATA = Path(os.environ.get("OPENVLT_TEST_DATA", ROOT.parent / "shared" / "data"))
Row = dict[str, Any]
Grader = Callable[[Row], bool]
CHOICE_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def load_openvlt() -> Grader:
    from openvlt.types import Verdict
    from openvlt.verify import verify

    return lambda row: (
        verify(row["gold"], row["response"], choices=row.get("choices"), answer_type=row.get("answer_type"))
        is Verdict.CORRECT
    )


def allowed_golds(row: Row) -> list[str]:
    """The gold answer and, for an option, both letter and text, as a careful user of a peer allows."""
    found, choices = [row["gold"]], row.get("choices") or []
    if row["gold"] in CHOICE_LETTERS and CHOICE_LETTERS.find(row["gold"]) < len(choices):
        found.append(choices[CHOICE_LETTERS.index(row["gold"])])
    elif row["gold"] in choices:
        found.append(CHOICE_LETTERS[choices.index(row["gold"])])
    return found


def answer_text(response: str) -> str:
    """The content of the answer tag, or everything after the thinking."""
    response = response.rpartition("</think>")[2]
    return (
        response.rpartition("<answer>")[2].partition("</answer>")[0] if "<answer>" in response else response
    )


def load_math_verify() -> Grader:
    """As its README shows: parse both, verify(gold, answer)."""
    from math_verify import parse, verify

    return lambda row: bool(verify(parse(f"${row['gold']}$"), parse(row["response"])))


def load_math_verify_choices() -> Grader:
    """Its best use: strings allowed, option text or letter taken too."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, StringExtractionConfig, parse, verify

    strings = [StringExtractionConfig(strings=tuple(CHOICE_LETTERS[:10]), lowercase=False)]
    numbers = [LatexExtractionConfig(), ExprExtractionConfig()]

    def grade(row: Row) -> bool:
        text = answer_text(row["response"])
        for gold in allowed_golds(row):
            configs = strings if gold in CHOICE_LETTERS else numbers
            if gold.strip("$ ").lower() == text.strip("$ ").lower():
                return True
            if verify(
                parse(f"${gold.strip('$')}$" if configs is numbers else gold, extraction_config=configs),
                parse(text, extraction_config=configs),
            ):
                return True
        return False

    return grade


def load_mathruler() -> Grader:
    """Boxed or tagged content, else the whole response; any gold form."""
    from mathruler.grader import extract_boxed_content, grade_answer

    def grade(row: Row) -> bool:
        text = answer_text(row["response"])
        boxed = extract_boxed_content(text)
        return any(
            grade_answer(text.strip() if boxed == "None" else boxed, gold) for gold in allowed_golds(row)
        )

    return grade


PEERS = {
    "openvlt": load_openvlt,
    "math_verify (README)": load_math_verify,
    "math_verify (choices)": load_math_verify_choices,
    "mathruler (choices)": load_mathruler,
}


def load_graders() -> dict[str, Grader]:
    found = {}
    for name, make in PEERS.items():
        try:
            found[name] = make()
        except ModuleNotFoundError as error:
            print(f"{name}: not measured, {error.name} is not installed")
    return found


def read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def load_cases() -> list[Row]:
    return list(read_jsonl(DATA / "verify_cases.jsonl"))


def load_recorded() -> list[Row]:
    """MathVision and MathVista rows of all recorded models: gold, response, choices, official verdict."""
    rows = []
    folder = DATA / "recorded_outputs" / "mathvision"
    test = {row["id"]: row for row in read_jsonl(folder / "test.jsonl")}
    for name in ("InternLM-XComposer2-VL-CoT", "LLaVA-v1.5-13B"):
        for row in read_jsonl(folder / f"{name}.jsonl"):
            problem = test[row["id"]]
            rows.append(
                {
                    "set": f"mathvision/{name}",
                    "gold": problem["answer"],
                    "response": row["response"],
                    "choices": problem["options"] or None,
                    "official": row["correct"],
                }
            )
    folder = DATA / "recorded_outputs" / "mathvista"
    test = {row["pid"]: row for row in read_jsonl(folder / "testmini.jsonl")}
    for name in ("bard", "llava_llama_2_13b"):
        for row in read_jsonl(folder / f"{name}.jsonl"):
            problem = test[row["pid"]]
            rows.append(
                {
                    "set": f"mathvista/{name}",
                    "gold": problem["answer"],
                    "response": row["response"],
                    "choices": problem["choices"],
                    "answer_type": problem["answer_type"],
                    "official": row["true_false"],
                }
            )
    return rows


def measure_accuracy(found: dict[str, Grader]) -> dict[str, Any]:
    """Right verdicts on the hand-decided cases, in all and by category."""
    right: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in found}
    for row in load_cases():
        for name, grade in found.items():
            right[name][row["category"]].append(grade(row) == row["expected"])
    return {
        name: {
            "overall": statistics.mean(ok for group in groups.values() for ok in group),
            "by_category": {category: [sum(group), len(group)] for category, group in sorted(groups.items())},
        }
        for name, groups in right.items()
    }


def measure_speed(found: dict[str, Grader], rows: list[Row]) -> dict[str, Any]:
    """CPU seconds of every grader on every row, in turn, so that other work on the machine doesn't count."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    agreed: dict[str, dict[str, list[bool]]] = {name: defaultdict(list) for name in found}
    for row in rows:
        for name, grade in found.items():
            start = time.thread_time()
            verdict = grade(row)
            seconds[name].append(time.thread_time() - start)
            agreed[name][row["set"]].append(verdict == row["official"])
    return {
        name: {
            **summarise(times),
            "agreement": {part: statistics.mean(ok) for part, ok in agreed[name].items()},
        }
        for name, times in seconds.items()
    }


def summarise(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "verdicts_per_s": len(times) / sum(times),
        "median_us": 1e6 * statistics.median(times),
        "p99_ms": 1e3 * ordered[int(0.99 * (len(ordered) - 1))],
        "max_ms": 1e3 * ordered[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, help="only this many recorded rows, evenly spread (default all)")
    args = parser.parse_args()
    found, rows = load_graders(), load_recorded()
    step = max(1, len(rows) // args.rows) if args.rows else 1
    for grade in found.values():
        grade({"gold": r"\sqrt{2}", "response": r"\boxed{\sqrt{1+1}}"})  # imports and first use are not timed
    result = {
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "rows": len(rows[::step]),
        "accuracy": measure_accuracy(found),
        "speed": measure_speed(found, rows[::step]),
    }
    path = ROOT / "bench" / "results" / "verify.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, numbers in result["speed"].items():
        right = result["accuracy"][name]["overall"]
        print(
            f"{name:24} cases {right:6.1%}  {numbers['verdicts_per_s']:8.0f}/s  "
            f"median {numbers['median_us']:7.0f} us  "
            f"p99 {numbers['p99_ms']:6.2f} ms  max {numbers['max_ms']:7.1f} ms"
        )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
