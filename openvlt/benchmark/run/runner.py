"""One benchmark from rows to results: asked of a model, or scored from recorded answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from openvlt.benchmark.prompts import ProjectPrompt
from openvlt.benchmark.protocol import Benchmark, Case, JudgeModel, Protocol
from openvlt.benchmark.results.compare import paired_difference
from openvlt.benchmark.results.files import read_scored, write_scored_rows
from openvlt.benchmark.results.summary import Scored, summarise_scores
from openvlt.benchmark.rows.loading import LoadedRows, load_rows, load_rows_for_responses
from openvlt.benchmark.rows.responses import read_responses
from openvlt.benchmark.rows.tables import check_folder
from openvlt.benchmark.run.ablations import InputAblation
from openvlt.benchmark.run.answers import AnswerGenerator, prompt_hash, style_for
from openvlt.benchmark.run.matching import match_responses
from openvlt.data.prompts import PromptStyle
from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.types import Problem

SCORING_PACKAGES = ("torch", "transformers", "sympy", "numpy", "pillow", "pyarrow")
Made = Mapping[str, Sequence[Mapping[str, Any]]]
BaselineShares = Mapping[str, float]  # problem id -> share of right answers in the baseline


@dataclass(frozen=True)
class BenchmarkRunner:
    """What one evaluation of a benchmark is made of; `samples` answers per question, `limit` takes the first rows of every part only."""

    benchmark: Benchmark
    protocol: str
    engine: AnswerGenerator
    prompt: PromptStyle
    view: InputAblation
    samples: int = 1
    judge: JudgeModel | None = None
    data_dir: str | None = None
    limit: int | None = None
    baseline: str | None = None

    @property
    def how(self) -> Protocol:
        return self.benchmark.protocol(self.protocol)

    def check(self) -> None:
        """Raises UserError for what is wrong before any row is read: the protocol, its decoding, the folder of rows, the baseline."""
        self._engine()
        if self.data_dir is not None:
            check_folder(self.data_dir)
        if self.baseline is not None:
            read_scored(self.baseline)

    def score_file(self, file: str, column: str, folder: Path) -> dict[str, Any]:
        """Scores the recorded answers of a file; rows without an answer are counted as missing, not scored."""
        recorded = read_responses(file, self.benchmark.ids, column, self.benchmark.subset_of)
        loaded = load_rows_for_responses(self.benchmark, self.data_dir, file, recorded)
        found, unmatched_ids = match_responses(self.benchmark, loaded, file, recorded)
        made = {name: [{**a.row, "response": a.response} for a in answers] for name, answers in found.items()}
        problems = [problem for problem in loaded.problems if problem.id in made]
        result = self._scored(problems, made, folder, self._base(problems), asked={})
        source = {
            "responses": file,
            "sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest(),
            "rows_from": loaded.where,
        }
        notes = {"missing": len(loaded.problems) - len(problems), "without_a_row": unmatched_ids}
        return {**result, **notes, **_odd(loaded), "provenance": self._provenance() | source}

    def ask_model(self, load_model: Callable[[], VLM], folder: Path) -> dict[str, Any]:
        """Asks the model every question (those that `folder` has answers to are not asked again) and scores the answers."""
        loaded = load_rows(self.benchmark, self.data_dir, images=True, limit=self.limit)
        base = self._base(loaded.problems)
        ask, engine, vlm = self.how.prompt, self._engine(), load_model()
        style = self.prompt if isinstance(ask, ProjectPrompt) else style_for(ask.marks, self.prompt)
        asked = self.view(vlm, [ask(problem) for problem in loaded.problems], engine, folder)
        rows = engine.answers(vlm, asked, style, folder / "responses.jsonl", self.benchmark.name)
        made: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            made.setdefault(row["id"], []).append(row)
        result = self._scored(
            loaded.problems, made, folder, base, asked={problem.id: problem.question for problem in asked}
        )
        made_by = _model(vlm) | {
            "prompt_hash": prompt_hash(asked),
            "prompt": asdict(style),
            "sampling": asdict(engine.sampling),
            "batch": engine.batch,
            "seed": engine.seed,
            "engine": type(engine.generator).__name__,
            "rows_from": loaded.where,
        }
        return {
            **result,
            "missing": 0,
            "without_a_row": [],
            **_odd(loaded),
            "provenance": self._provenance() | made_by,
        }

    def _engine(self) -> AnswerGenerator:
        """The engine with the protocol's decoding. Raises UserError when that gives the same answer every time."""
        return replace(
            self.engine, sampling=replace(self.engine.sampling, n=self.samples, **self.how.sampling)
        )

    def _scored(
        self,
        problems: Sequence[Problem],
        made: Made,
        folder: Path,
        base: BaselineShares,
        asked: Mapping[str, str],
    ) -> dict[str, Any]:
        """Scores every answer, writes rows.parquet, and sums up; with a baseline the paired test against it (`base`, see `_base`)."""
        cases = [Case(p, row["response"], row, row.get("finished")) for p in problems for row in made[p.id]]
        answers = self.how.score(cases, self.judge if self.how.judged else None)
        n = len(made[problems[0].id])
        scored = [
            Scored(
                problem,
                tuple(answers[i * n : (i + 1) * n]),
                tuple(case.finished for case in cases[i * n : (i + 1) * n]),
            )
            for i, problem in enumerate(problems)
        ]
        write_scored_rows(folder / "rows.parquet", scored, asked, made)
        judge = self._judge(cases)
        numbers, headline = (
            summarise_scores(scored, self.benchmark.metrics),
            self.benchmark.headlines.get(self.protocol),
        )
        result = {
            "benchmark": self.benchmark.name,
            "protocol": self.protocol,
            "variant": self._variant(judge),
            "judge": judge,
            "headline": headline if headline in numbers["metrics"] else "accuracy",
            **numbers,
        }
        return result if self.baseline is None else {**result, "baseline": self._against(scored, base)}

    def _judge(self, cases: Sequence[Case]) -> str | None:
        """Who judged: a model by its name, "rules" in its place, "not asked" where each case was settled; None without one."""
        if not self.how.judged:
            return None
        if self.how.needs_no_judge is not None and all(map(self.how.needs_no_judge, cases)):
            return "not asked"
        return self.judge.name if self.judge else "rules"

    def _variant(self, judge: str | None) -> str:
        """The protocol's plain name: `rules only` where a judge belongs and none was there, and the view if it isn't the whole row."""
        rules = " (rules only)" if judge == "rules" else ""
        return f"protocol {self.protocol}{rules}{'' if self.view.name == 'whole' else f', {self.view.name}'}"

    def _base(self, problems: Sequence[Problem]) -> BaselineShares:
        """Id -> share of right answers in the baseline, of these problems; raises UserError when it has none of them."""
        if self.baseline is None:
            return {}
        base: dict[str, list[float]] = {problem.id: [] for problem in problems}
        for row in read_scored(self.baseline):
            if row["id"] in base:
                base[row["id"]].append(float(row["right"]))
        if not any(base.values()):
            raise UserError(
                f"baseline={self.baseline} has no row in common with {self.benchmark.name}; give a run of the same benchmark"
            )
        return {name: sum(rights) / len(rights) for name, rights in base.items() if rights}

    def _against(self, scored: Sequence[Scored], base: BaselineShares) -> dict[str, Any]:
        shared = [row for row in scored if row.problem.id in base]
        ones = [base[row.problem.id] for row in shared]
        return {
            "file": self.baseline,
            **paired_difference(
                ones, [row.share for row in shared], [row.problem.meta["cluster"] for row in shared]
            ),
        }

    def _provenance(self) -> dict[str, Any]:
        versions = {name: metadata.version(name) for name in SCORING_PACKAGES}
        return {"source": self.how.source, "view": self.view.name, "versions": versions}


def _odd(loaded: LoadedRows) -> dict[str, Any]:
    return {"faulty_rows": dict(loaded.faults), "skipped_rows": dict(loaded.skipped)}


def _model(vlm: VLM) -> dict[str, Any]:
    """What a score depends on in a model: its name, revision, precision, attention, and how large images may be."""
    config, images = vlm.core.config, vlm.processor.image_processor
    return {
        "model": vlm.path,
        "revision": getattr(config, "_commit_hash", None),
        "dtype": str(vlm.core.dtype).removeprefix("torch."),
        "attention": config._attn_implementation,
        "pixels": dict(getattr(images, "size", None) or {}),
    }
