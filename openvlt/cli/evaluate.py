"""What evaluate.py does: a run folder around an evaluation on held-out problems, a benchmark, or a comparison of two runs."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from openvlt import distributed
from openvlt.benchmark.protocol import Benchmark
from openvlt.benchmark.results.compare import compare_files, describe_comparison, pair_files
from openvlt.benchmark.results.files import result_line, results_markdown
from openvlt.benchmark.run.answers import AnswerGenerator
from openvlt.benchmark.run.judge import ServerJudge
from openvlt.benchmark.run.runner import BenchmarkRunner
from openvlt.config.build import build
from openvlt.errors import UserError
from openvlt.iteration.context import make_context
from openvlt.model.load import VLM
from openvlt.runs.session import (
    announce_run,
    command_line_overrides,
    config_differences,
    keep_resumable,
    open_run,
)
from openvlt.storage.atomic import write_json, write_text
from openvlt.storage.locks import lock_folder

# what only a benchmark reads
OPTIONS = (
    "protocol",
    "data_dir",
    "responses",
    "response_column",
    "samples",
    "batch",
    "limit",
    "baseline",
    "judge",
    "judge_ledger",
    "view",
)


def evaluate_heldout(config: DictConfig) -> None:
    """One model on the data's held-out problems; a benchmark's run that is resumed by its folder alone is still the benchmark's.

    Raises UserError for options that only a benchmark reads.
    """
    saved = Path(config.paths.run) / "config.yaml"
    if config.resume is not None and saved.is_file() and OmegaConf.load(saved).get("benchmark") is not None:
        evaluate_benchmark(config)
        return
    _refuse_options()
    config, folder = open_run(config)
    if _finished(folder, "results.json"):
        return
    announce_run(config, folder)
    with keep_resumable(folder):
        context = make_context(config)
        vlm = context.load("base")
        result = {"model": vlm.path, **context.evaluate(vlm, folder)}
    write_json(folder / "results.json", result)
    low, high = (100 * bound for bound in result["interval"])
    print(
        f"accuracy {100 * result['accuracy']:.1f} %  (95 %: {low:.1f} to {high:.1f})  n {result['n']}  {result['verdicts']}"
    )
    for level, part in result["levels"].items():
        print(f"  level {level}: {100 * part['accuracy']:.1f} %  n {part['n']}")
    print(folder / "results.json")


def _refuse_options() -> None:
    keys = {
        override.lstrip("+~").partition("=")[0].rpartition("@")[2].partition(".")[0]
        for override in command_line_overrides()
    }
    if useless := [name for name in OPTIONS if name in keys]:
        verb, them = ("needs", "it") if len(useless) == 1 else ("need", "them")
        raise UserError(f"{', '.join(useless)} {verb} a benchmark; add benchmark=<name>, or leave {them} out")


def _finished(folder: Path, shown: str) -> bool:
    """Whether the run to resume is over; says so."""
    if over := (folder / "results.json").is_file():
        print(f"finished before: nothing to do\n{folder / shown}")
    return over


def evaluate_benchmark(config: DictConfig) -> None:
    """A benchmark, or all of them: asked of a model, or scored from recorded answers. The same command continues a run that was cut off."""
    with ExitStack() as held:
        config, folder = open_run(find_unfinished_run(config, held))
        if _finished(folder, "results.md"):
            return
        several = "_target_" not in config.benchmark
        print(f"{config.responses or model_title(config)} -> {folder}", flush=True)
        with keep_resumable(folder):
            _check_responses(config, several)
            runs = {name: build_runner(config, name) for name in (config.benchmark if several else [""])}
            for run in runs.values():  # all of them before the first is asked
                run.check()
            results = [_one(config, run, folder / name, done=several) for name, run in runs.items()]
        write_text(folder / "results.md", results_markdown(results))
        write_json(
            folder / "results.json",
            {"benchmarks": {r["benchmark"]: r for r in results}} if several else results[0],
        )
        print(folder / "results.md")


def model_title(config: DictConfig) -> str:
    return config.model.get("path") or "the embedded tiny model"


def _check_responses(config: DictConfig, several: bool) -> None:
    if not config.responses:
        return
    if several:
        raise UserError("responses=FILE belongs to one benchmark; give benchmark=<its name> instead of all")
    if config.samples != 1 or config.limit is not None:
        raise UserError(
            "samples= and limit= are for asking a model; a file of responses is scored whole, leave them out"
        )


def _one(config: DictConfig, run: BenchmarkRunner, place: Path, *, done: bool) -> dict[str, Any]:
    """One benchmark; one of several has a folder of its own, and what is finished there isn't done again (`done`)."""
    place.mkdir(exist_ok=True)
    if done and (place / "results.json").is_file():
        return json.loads((place / "results.json").read_text())
    if config.responses:
        result = run.score_file(config.responses, config.response_column, place)
    else:
        result = run.ask_model(lambda: _load(config), place)
    if done:
        write_json(place / "results.json", result)
    print(result_line(result), flush=True)
    _notes(result)
    return result


def build_runner(config: DictConfig, name: str = "") -> BenchmarkRunner:
    """The parts of one benchmark's evaluation, built from the config; `name` picks one of several benchmarks."""
    benchmark: Benchmark = build(config.benchmark[name] if name else config.benchmark, "benchmark")
    evaluation, judge = build(config.evaluation, "evaluation"), None
    if config.judge is not None and distributed.is_main():  # the other ranks' scores are not kept
        judge = ServerJudge(build(config.judge, "judge"), Path(config.judge_ledger))
    if config.samples < 1 or config.batch < 1 or config.limit is not None and config.limit < 1:
        raise UserError(
            f"samples={config.samples}, batch={config.batch}, limit={config.limit}: each must be at least 1"
        )
    engine = AnswerGenerator(
        evaluation.generator, evaluation.sampling, config.batch, config.seed, config.prompt.max_tokens
    )
    data_dir, baseline = (
        str(Path(place) / name) if place and name else place for place in (config.data_dir, config.baseline)
    )
    return BenchmarkRunner(
        benchmark=benchmark,
        protocol=config.protocol,
        engine=engine,
        prompt=evaluation.prompt,
        view=build(config.view, "view"),
        samples=config.samples,
        judge=judge,
        data_dir=data_dir,
        limit=config.limit,
        baseline=baseline,
    )


def _load(config: DictConfig) -> VLM:
    return make_context(config).load("base")


def _notes(result: dict[str, Any]) -> None:
    """What a reader of the score should know: missing answers, odd and unusable rows, the baseline."""
    if result["missing"]:
        print(f"  {result['missing']} rows have no answer in the file and are not scored")
    if unmatched_ids := result["without_a_row"]:
        print(
            f"  {len(unmatched_ids)} answers belong to no usable row and are not scored, the first is {unmatched_ids[0]}"
        )
    for word, rows in (("odd", result["faulty_rows"]), ("left out", result["skipped_rows"])):
        if rows:
            first, reason = next(iter(rows.items()))
            print(f"  {len(rows)} row{'s' * (len(rows) > 1)} {word}, the first is {first}: {reason}")
    if base := result.get("baseline"):
        low, high = (100 * bound for bound in base["interval"])
        p = "" if base["mcnemar_p"] is None else f"  McNemar p {base['mcnemar_p']:.3g}"
        print(
            f"  against {base['file']}: {100 * base['difference']:+.1f} points (95 %: {low:.1f} to {high:.1f}){p}  n {base['rows']}"
        )


def compare_two_runs(config: DictConfig) -> None:
    """Two finished runs, row by row."""
    if len(config.compare) != 2:
        raise UserError(
            f"compare={','.join(map(str, config.compare))} names {len(config.compare)} runs; give two: compare=A,B"
        )
    one, other = config.compare
    found = {name: compare_files(*places) for name, places in pair_files(one, other).items()}
    folder = Path(config.paths.run)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "compare.json", found)
    for name, result in found.items():
        print(f"{name}: {describe_comparison(result)}" if len(found) > 1 else describe_comparison(result))
    print(folder / "compare.json")


# --- going on ----------------------------------------------------------------------------------------------------------


def find_unfinished_run(config: DictConfig, held: ExitStack) -> DictConfig:
    """The config, pointed at an unfinished run of exactly this config if one was cut off; `held` keeps its folder locked for this run."""
    if config.resume is not None:
        return config
    own = Path(config.paths.run)
    found = distributed.broadcast(_unfinished(config, held) if distributed.is_main() else None)
    if found is None:
        if distributed.is_main():
            own.mkdir(parents=True, exist_ok=True)
            _lock(own, held)
        return config
    with suppress(OSError):  # there may be none, or something of the user's in it
        own.rmdir()
    print(f"continuing {found}", flush=True)
    return OmegaConf.merge(config, {"resume": str(found), "paths": {"run": str(found)}})


def _unfinished(config: DictConfig, held: ExitStack) -> Path | None:
    now = OmegaConf.to_container(config, resolve=True)
    for file in sorted(Path(config.paths.run).parent.glob("*/config.yaml")):
        finished = (file.parent / "results.json").exists()
        if (
            not finished
            and not config_differences(OmegaConf.to_container(OmegaConf.load(file)), now)
            and _lock(file.parent, held)
        ):
            return file.parent
    return None


def _lock(folder: Path, held: ExitStack) -> bool:
    """Locks a run folder until `held` is closed; False when another process has it."""
    try:
        held.enter_context(lock_folder(folder))
    except BlockingIOError:
        return False
    return True
