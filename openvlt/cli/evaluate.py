"""What evaluate.py does: evaluation on held-out problems, of a benchmark, or a comparison of two runs."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from openvlt import distributed
from openvlt.benchmark.protocol import Benchmark
from openvlt.benchmark.results.compare import compare_files, describe_comparison, pair_files
from openvlt.benchmark.results.files import format_interval, result_line, results_markdown
from openvlt.benchmark.run.answers import AnswerGenerator
from openvlt.benchmark.run.judge import ServerJudge
from openvlt.benchmark.run.runner import BenchmarkRunner
from openvlt.config.build import build
from openvlt.config.resolvers import load_config
from openvlt.errors import UserError
from openvlt.iteration.context import make_context
from openvlt.model.load import VLM
from openvlt.report.keep import keep_report
from openvlt.rollout.base import check_judge
from openvlt.runs.session import (
    announce_run,
    command_line_overrides,
    config_differences,
    data_title,
    open_run,
    start_run,
)
from openvlt.storage.atomic import read_json_file, write_json, write_text
from openvlt.storage.locks import lock_folder
from openvlt.storage.markdown import format_percent

BENCHMARK_OPTIONS = (
    "protocol",
    "data_dir",
    "anywhere",
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


def score_or_compare(config: DictConfig) -> None:
    """Compares two runs where `compare` names them, else evaluates."""
    if config.compare is not None:
        compare_two_runs(config)
    else:
        run_evaluation(config)


def run_evaluation(config: DictConfig) -> None:
    """Evaluates a benchmark or held-out problems; a run that was cut off goes on.

    Raises UserError for options that only a benchmark reads.
    """
    if not config.benchmark and config.resume is None:
        _refuse_benchmark_options()
    new = config.resume is None
    config, folder = open_run(config)
    if not new and (folder / "results.json").is_file():
        shown = "results.md" if config.benchmark else "results.json"
        print(f"finished before: nothing to do\n{folder / shown}")
        return
    if config.benchmark:
        evaluate_benchmark(config, folder, new=new)
    else:
        evaluate_heldout(config, folder)


def evaluate_heldout(config: DictConfig, folder: Path) -> None:
    """Evaluates one model on the data's held-out problems."""
    context = make_context(config)
    with keep_report(folder, Path(config.paths.runs)), start_run(config, folder) as home:
        announce_run(config, home)
        context = context.check_rows(home, data_title(config), [context.evaluation.prompt])
        vlm = context.load("base")
        result = {"model": vlm.path, **context.evaluate(vlm, home)}
        write_json(home / "results.json", result)
    print(
        f"accuracy {format_percent(result['accuracy'])} %  (95 %: {format_interval(result['interval'])})  "
        f"n {result['n']}  {result['verdicts']}"
    )
    for sentence in result["findings"]:
        print(f"warning: {sentence}")
    for level, counts in result["levels"].items():
        print(f"  level {level}: {format_percent(counts['accuracy'])} %  n {counts['n']}")
    print(f"{home / 'results.json'}\n{home / 'report.html'}")


def _refuse_benchmark_options() -> None:
    keys = {
        override.lstrip("+~").partition("=")[0].rpartition("@")[2].partition(".")[0]
        for override in command_line_overrides()
    }
    if useless := [name for name in BENCHMARK_OPTIONS if name in keys]:
        verb, them = ("needs", "it") if len(useless) == 1 else ("need", "them")
        raise UserError(f"{', '.join(useless)} {verb} a benchmark; add benchmark=<name>, or leave {them} out")


def evaluate_benchmark(config: DictConfig, folder: Path, *, new: bool) -> None:
    """Evaluates a benchmark, or all of them: asks a model, or scores recorded answers.

    A `new` run goes on in the folder of one with the same config that was cut off.
    """
    several = "_target_" not in config.benchmark
    _check_responses(config, several)
    names = list(config.benchmark) if several else [""]
    runners = {name: build_runner(config, name) for name in names}
    for runner in runners.values():  # all of them before the first is asked
        runner.check()
    with ExitStack() as locks:
        if new:
            folder = find_unfinished_run(config, folder, locks)
        locks.enter_context(keep_report(folder, Path(config.paths.runs)))
        home = locks.enter_context(start_run(config, folder))
        print(f"{config.responses or model_title(config)} -> {home}", flush=True)
        results = [
            _run_benchmark(config, runner, home / name, several=several) for name, runner in runners.items()
        ]
        write_text(home / "results.md", results_markdown(results))
        write_json(
            home / "results.json",
            {"benchmarks": {r["benchmark"]: r for r in results}} if several else results[0],
        )
        print(home / "results.md")


def model_title(config: DictConfig) -> str:
    """The model as messages name it."""
    return config.model.get("path") or "the embedded tiny model"


def _check_responses(config: DictConfig, several: bool) -> None:
    """Raises UserError for options that a file of responses doesn't go with."""
    if not config.responses:
        return
    if several:
        raise UserError("responses=FILE belongs to one benchmark; give benchmark=<its name> instead of all")
    if config.samples != 1 or config.limit is not None:
        raise UserError(
            "samples= and limit= are for asking a model; a file of responses is scored whole, leave them out"
        )


def _run_benchmark(
    config: DictConfig, runner: BenchmarkRunner, folder: Path, *, several: bool
) -> dict[str, Any]:
    """The result of one benchmark. One of several has its own folder and results, and isn't run again."""
    if distributed.is_main():
        folder.mkdir(exist_ok=True)
    file = folder / "results.json"
    if several and distributed.broadcast(file.is_file()):
        return read_json_file(file)
    if config.responses:
        result = runner.score_file(config.responses, config.response_column, folder)
    else:
        result = runner.ask_model(lambda: _load_model(config), folder)
    if several:
        write_json(file, result)
    print(result_line(result), flush=True)
    _print_notes(result)
    return result


def build_runner(config: DictConfig, name: str = "") -> BenchmarkRunner:
    """The parts of one benchmark's evaluation, built from the config; `name` picks one of several benchmarks.

    Raises UserError for a number below 1.
    """
    benchmark: Benchmark = build(config.benchmark[name] if name else config.benchmark, "benchmark")
    evaluation, judge = build(config.evaluation, "evaluation"), None
    if config.judge is not None and distributed.is_main():  # the other ranks' scores are not kept
        judge = ServerJudge(build(config.judge, "judge"), Path(config.judge_ledger))
        check_judge(evaluation.generator, judge.server)
    if config.samples < 1 or config.batch < 1 or config.limit is not None and config.limit < 1:
        raise UserError(
            f"samples={config.samples}, batch={config.batch}, limit={config.limit}: each must be at least 1"
        )
    generator = AnswerGenerator(
        evaluation.generator,
        evaluation.sampling,
        config.batch,
        config.seed,
        config.prompt.max_tokens,
        config.decode_check,
    )
    data_dir, baseline = (
        str(Path(place) / name) if place and name else place for place in (config.data_dir, config.baseline)
    )
    return BenchmarkRunner(
        benchmark=benchmark,
        protocol_name=config.protocol,
        generator=generator,
        prompt=evaluation.prompt,
        ablation=build(config.view, "view"),
        samples=config.samples,
        judge=judge,
        data_dir=data_dir,
        anywhere=config.anywhere,
        limit=config.limit,
        baseline=baseline,
    )


def _load_model(config: DictConfig) -> VLM:
    return make_context(config).load("base")


def _print_notes(result: dict[str, Any]) -> None:
    """Prints what qualifies a score: missing answers, odd and unusable rows, the baseline."""
    for sentence in result["findings"]:
        print(f"  warning: {sentence}")
    if result["missing"]:
        print(f"  {result['missing']} rows have no answer in the file and are not scored")
    if unmatched_ids := result["without_a_row"]:
        print(
            f"  {len(unmatched_ids)} answers belong to no usable row and are not scored, the first is "
            f"{unmatched_ids[0]}"
        )
    for word, rows in (("odd", result["faulty_rows"]), ("left out", result["skipped_rows"])):
        if rows:
            first, reason = next(iter(rows.items()))
            print(f"  {len(rows)} row{'s' * (len(rows) > 1)} {word}, the first is {first}: {reason}")
    for subset, count in result["rows_of_other_subsets"].items():
        print(f"  {count} rows are {subset}, which {result['benchmark']} hasn't; they are not scored")
    if base := result.get("baseline"):
        p = "" if base["mcnemar_p"] is None else f"  McNemar p {base['mcnemar_p']:.3g}"
        print(
            f"  against {base['file']}: {100 * base['difference']:+.1f} points "
            f"(95 %: {format_interval(base['interval'])}){p}  n {base['rows']}"
        )


def compare_two_runs(config: DictConfig) -> None:
    """Compares two finished runs, row by row."""
    if len(config.compare) != 2:
        raise UserError(
            f"compare={','.join(map(str, config.compare))} names {len(config.compare)} runs; give two: "
            "compare=A,B"
        )
    one, other = config.compare
    found = {name: compare_files(*places) for name, places in pair_files(one, other).items()}
    folder = Path(config.paths.run)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "compare.json", found)
    for name, result in found.items():
        print(f"{name}: {describe_comparison(result)}" if len(found) > 1 else describe_comparison(result))
    print(folder / "compare.json")


# --- resuming -----------------------------------------------------------------------------------------------


def find_unfinished_run(config: DictConfig, folder: Path, locks: ExitStack) -> Path:
    """The folder of a run of exactly this config that was cut off, else `folder`, which is made.

    Either stays locked until `locks` is closed.
    """
    found = distributed.broadcast(_lock_unfinished(config, folder, locks) if distributed.is_main() else None)
    if found is not None:
        with suppress(OSError):  # another rank was first, there may be none, or something of the user's in it
            folder.rmdir()
        print(f"continuing {found}", flush=True)
        return found
    if distributed.is_main():
        folder.mkdir(parents=True, exist_ok=True)
        _try_lock(folder, locks)
    return folder


def _lock_unfinished(config: DictConfig, folder: Path, locks: ExitStack) -> Path | None:
    """The first unfinished run of this config that no other process works on, locked; None without one."""
    now = OmegaConf.to_container(config)
    for file in sorted(folder.parent.glob("*/config.yaml")):
        if (file.parent / "results.json").exists():
            continue
        saved = OmegaConf.to_container(load_config(file))
        if not config_differences(saved, now) and _try_lock(file.parent, locks):
            return file.parent
    return None


def _try_lock(folder: Path, locks: ExitStack) -> bool:
    """Locks a run folder until `locks` is closed; False when another process has it."""
    try:
        locks.enter_context(lock_folder(folder))
    except BlockingIOError:
        return False
    return True
