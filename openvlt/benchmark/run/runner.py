"""One benchmark from rows to results: asked of a model, or scored from recorded answers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from openvlt.benchmark.protocol import Benchmark, Case, JudgeModel, Protocol
from openvlt.benchmark.results.compare import paired_difference
from openvlt.benchmark.results.files import read_scored_rows, write_scored_rows
from openvlt.benchmark.results.summary import ScoredProblem, summarise_scores
from openvlt.benchmark.rows.loading import LoadedRows, load_rows, load_rows_for_responses
from openvlt.benchmark.rows.responses import read_responses
from openvlt.benchmark.rows.tables import check_data_dir
from openvlt.benchmark.run.ablations import InputAblation
from openvlt.benchmark.run.answers import AnswerGenerator, prompt_hash
from openvlt.benchmark.run.matching import match_responses
from openvlt.data.fingerprint import Fingerprints
from openvlt.data.prompts import PromptStyle
from openvlt.errors import UserError
from openvlt.findings import answer_findings
from openvlt.model.load import VLM
from openvlt.types import Problem

SCORING_PACKAGES = ("torch", "transformers", "sympy", "numpy", "pillow", "pyarrow")
RowsById = Mapping[str, Sequence[Mapping[str, Any]]]  # problem id -> its answers' rows, one per sample
SharesById = Mapping[str, float]  # problem id -> share of correct samples


@dataclass(frozen=True)
class BenchmarkRunner:
    """The parts of one benchmark's evaluation: `samples` answers per question, `limit` rows per subset."""

    benchmark: Benchmark
    protocol_name: str
    generator: AnswerGenerator
    prompt: PromptStyle
    ablation: InputAblation
    samples: int = 1
    judge: JudgeModel | None = None
    data_dir: str | None = None
    anywhere: bool = False
    limit: int | None = None
    baseline: str | None = None

    @property
    def protocol(self) -> Protocol:
        """The chosen protocol. Raises UserError when the benchmark has no such one."""
        return self.benchmark.protocol(self.protocol_name)

    def check(self) -> None:
        """Raises UserError for a wrong protocol, decoding, data folder or baseline, before a row is read."""
        self._protocol_generator()
        if self.data_dir is not None:
            check_data_dir(self.data_dir)
        if self.baseline is not None:
            read_scored_rows(self.baseline)

    def score_file(self, file: str, column: str, folder: Path) -> dict[str, Any]:
        """Scores the recorded answers of a file. Rows without an answer count as missing, not as wrong."""
        recorded = read_responses(file, self.benchmark.ids, column, self.benchmark.subset_of)
        loaded = load_rows_for_responses(self.benchmark, self.data_dir, file, recorded)
        found, unmatched_ids = match_responses(self.benchmark, loaded, file, recorded)
        rows = {name: [{**a.row, "response": a.response} for a in answers] for name, answers in found.items()}
        problems = [problem for problem in loaded.problems if problem.id in rows]
        result = self._score(problems, rows, folder, self._baseline_shares(problems), prompts={})
        source = {
            "responses": file,
            "sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest(),
            "rows_from": loaded.where,
        }
        return {
            **result,
            "missing": len(loaded.problems) - len(problems),
            "without_a_row": unmatched_ids,
            **_row_notes(loaded),
            "provenance": self._provenance() | source,
        }

    def ask_model(self, load_model: Callable[[], VLM], folder: Path) -> dict[str, Any]:
        """Asks the model every question that `folder` has no answer to yet, and scores the answers."""
        loaded = load_rows(
            self.benchmark,
            self.data_dir,
            images=self.ablation.needs_images,
            limit=self.limit,
            anywhere=self.anywhere,
        )
        Fingerprints(folder, f"the data of {self.benchmark.name}").check("rows", loaded.problems)
        baseline = self._baseline_shares(loaded.problems)
        prompt, generator, vlm = self.protocol.prompt, self._protocol_generator(), load_model()
        style = prompt.style(self.prompt)
        asked = self.ablation(vlm, [prompt(problem) for problem in loaded.problems], generator, folder)
        rows: dict[str, list[Mapping[str, Any]]] = {}
        for row in generator.generate(vlm, asked, style, folder / "responses.jsonl", self.benchmark.name):
            rows.setdefault(row["id"], []).append(row)
        prompts = {problem.id: problem.question for problem in asked}
        result = self._score(loaded.problems, rows, folder, baseline, prompts=prompts)
        settings = {
            "prompt_hash": prompt_hash(asked),
            "prompt": asdict(style),
            "sampling": asdict(generator.sampling),
            "batch": generator.batch,
            "seed": generator.seed,
            "engine": type(generator.generator).__name__,
            "rows_from": loaded.where,
        }
        return {
            **result,
            "missing": 0,
            "without_a_row": [],
            **_row_notes(loaded),
            "provenance": self._provenance() | _model_facts(vlm) | settings,
        }

    def _protocol_generator(self) -> AnswerGenerator:
        """The generator with the protocol's decoding. Raises UserError when all samples would be the same."""
        sampling = replace(self.generator.sampling, n=self.samples, **self.protocol.sampling)
        return replace(self.generator, sampling=sampling)

    def _score(
        self,
        problems: Sequence[Problem],
        rows: RowsById,
        folder: Path,
        baseline: SharesById,
        prompts: Mapping[str, str],
    ) -> dict[str, Any]:
        """Scores every answer, writes rows.parquet, returns the summary with the test against a baseline."""
        protocol = self.protocol
        cases = [Case(p, row["response"], row, row.get("finished")) for p in problems for row in rows[p.id]]
        answers = protocol.score(cases, self.judge if protocol.judged else None)
        n = len(rows[problems[0].id])
        scored = [
            ScoredProblem(
                problem,
                tuple(answers[i * n : (i + 1) * n]),
                tuple(case.finished for case in cases[i * n : (i + 1) * n]),
            )
            for i, problem in enumerate(problems)
        ]
        write_scored_rows(folder / "rows.parquet", scored, prompts, rows)
        numbers = summarise_scores(scored, self.benchmark.metrics)
        headline, judge = self.benchmark.headlines.get(self.protocol_name), self._judge_name(cases)
        result = {
            "benchmark": self.benchmark.name,
            "protocol": self.protocol_name,
            "variant": self._variant_name(judge),
            "judge": judge,
            "headline": headline if headline in numbers["metrics"] else "accuracy",
            "findings": answer_findings(
                numbers["verdicts"],
                cut=sum(case.finished is False for case in cases),
                texts=[case.response for case in cases],
                golds=[problem.answer for problem in problems],
            ),
            **numbers,
        }
        if self.baseline is not None:
            result["baseline"] = {"file": self.baseline, **_compare_with_baseline(scored, baseline)}
        return result

    def _judge_name(self, cases: Sequence[Case]) -> str | None:
        """The judge's name, "rules" without one, "not asked" if no case needs it; None if not judged."""
        protocol = self.protocol
        if not protocol.judged:
            return None
        if protocol.needs_no_judge is not None and all(map(protocol.needs_no_judge, cases)):
            return "not asked"
        return self.judge.name if self.judge else "rules"

    def _variant_name(self, judge: str | None) -> str:
        """The protocol's name, with "(rules only)" where its judge was missing, and the input ablation."""
        rules = " (rules only)" if judge == "rules" else ""
        ablation = "" if self.ablation.name == "whole" else f", {self.ablation.name}"
        return f"protocol {self.protocol_name}{rules}{ablation}"

    def _baseline_shares(self, problems: Sequence[Problem]) -> SharesById:
        """The baseline's shares for these problems. Raises UserError when it has none of them."""
        if self.baseline is None:
            return {}
        found: dict[str, list[float]] = {problem.id: [] for problem in problems}
        for row in read_scored_rows(self.baseline):
            if row["id"] in found:
                found[row["id"]].append(float(row["right"]))
        if not any(found.values()):
            raise UserError(
                f"baseline={self.baseline} has no row in common with {self.benchmark.name}; "
                "give a run of the same benchmark"
            )
        return {name: sum(correct) / len(correct) for name, correct in found.items() if correct}

    def _provenance(self) -> dict[str, Any]:
        versions = {name: metadata.version(name) for name in SCORING_PACKAGES}
        return {"source": self.protocol.source, "view": self.ablation.name, "versions": versions}


def _compare_with_baseline(scored: Sequence[ScoredProblem], baseline: SharesById) -> dict[str, Any]:
    """The paired test over the rows that the baseline has, too."""
    shared = [row for row in scored if row.problem.id in baseline]
    return paired_difference(
        [baseline[row.problem.id] for row in shared],
        [row.share for row in shared],
        [row.problem.meta["cluster"] for row in shared],
    )


def _row_notes(loaded: LoadedRows) -> dict[str, Any]:
    others = dict(Counter(loaded.left_out.values()))
    return {
        "faulty_rows": dict(loaded.faults),
        "skipped_rows": dict(loaded.skipped),
        "rows_of_other_subsets": others,
    }


def _model_facts(vlm: VLM) -> dict[str, Any]:
    """What a score depends on in a model: name, revision, precision, attention, image size."""
    config, images = vlm.core.config, vlm.processor.image_processor
    return {
        "model": vlm.path,
        "revision": getattr(config, "_commit_hash", None),
        "dtype": str(vlm.core.dtype).removeprefix("torch."),
        "attention": config._attn_implementation,
        "pixels": dict(getattr(images, "size", None) or {}),
    }
