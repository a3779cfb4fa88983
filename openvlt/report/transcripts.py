"""A few responses of every stage, right and wrong, with their questions and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvlt.data.images import data_url, open_image
from openvlt.errors import UserError
from openvlt.report.records import RunRecord, StageRecord
from openvlt.types import Verdict

RIGHT = Verdict.CORRECT.value
_LONGEST = 4000  # characters of one response
_WIDEST = 640  # pixels of a picture's longer side
_SMALL = 200  # pixels: pictures up to this size are magnified without smoothing


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, or the reason in `missing`. `small` ones are magnified without smoothing."""

    uri: str = ""
    missing: str = ""
    small: bool = False


@dataclass(frozen=True)
class Transcript:
    """One response on the page; `verdict` is empty where there is none, `note` holds what else is known."""

    question: str
    gold: str
    response: str
    verdict: str
    note: str
    pictures: tuple[Picture, ...]

    @property
    def right(self) -> bool:
        """Whether the verdict is CORRECT."""
        return self.verdict == RIGHT


class Pictures:
    """Finds the pictures of a run's rows.

    A row may name `images` in its stage's folder; otherwise the traces of the same problem do.
    """

    def __init__(self, stages: Iterable[StageRecord]) -> None:
        self._of_problem: dict[str, list[Path]] = {}
        for stage in stages:
            for row in stage.read_jsonl("traces.jsonl"):
                if paths := _named_paths(row, stage):
                    self._of_problem.setdefault(str(row.get("id")), paths)

    def find(self, row: Mapping[str, Any], stage: StageRecord) -> list[Path]:
        """The pictures of a row of that stage; [] when none is known."""
        return _named_paths(row, stage) or self._of_problem.get(str(row.get("id", row.get("problem"))), [])


def _named_paths(row: Mapping[str, Any], stage: StageRecord) -> list[Path]:
    if stage.folder is None:
        return []
    named = row.get("images") or row.get("image") or []
    return [stage.folder / path for path in ([named] if isinstance(named, str) else named)]


def load_picture(path: Path) -> Picture:
    """A picture for the page, at most `_WIDEST` pixels wide or high."""
    try:
        image = open_image(path, path.name)
    except UserError:
        return Picture(missing=f"{path.name} can't be read")
    small = max(image.size) <= _SMALL
    image.thumbnail((_WIDEST, _WIDEST))
    return Picture(data_url(image, "PNG" if small else "JPEG"), small=small)


# --- one stage ----------------------------------------------------------------------------------------------


def answer_transcripts(stage: StageRecord, pictures: Pictures, amount: int = 3) -> list[Transcript]:
    """Up to `amount` right and `amount` wrong responses of the evaluation, those with a picture first."""
    rows = right_and_wrong(stage.read_jsonl("rows.jsonl"), _has_picture(stage, pictures), amount)
    return [_make_transcript(row, stage, pictures, _describe_length(row)) for row in rows]


def sample_transcripts(stage: StageRecord, pictures: Pictures, amount: int = 2) -> list[Transcript]:
    """Up to `amount` right and `amount` wrong completions of the first and of the last rollout batch."""
    rows = _read_rollouts(stage)
    chosen: list[dict[str, Any]] = []
    for step in dict.fromkeys([rows[0]["step"], rows[-1]["step"]]) if rows else ():
        of_step = [row for row in rows if row["step"] == step]
        chosen += right_and_wrong(of_step, _has_picture(stage, pictures), amount)
    return [_make_transcript(row, stage, pictures, _describe_sample(row)) for row in chosen]


def trace_transcripts(stage: StageRecord, pictures: Pictures, amount: int = 4) -> list[Transcript]:
    """The first `amount` of the traces that a distillation kept."""
    return [_make_transcript(row, stage, pictures) for row in stage.read_jsonl("traces.jsonl")[:amount]]


def shorten(text: str, longest: int) -> str:
    """The text, or its first `longest` characters and how many more there are."""
    return f"{text[:longest]} … [{len(text) - longest} more characters]" if len(text) > longest else text


def right_and_wrong(
    rows: Sequence[dict[str, Any]], has_picture: Callable[[dict[str, Any]], bool], amount: int
) -> list[dict[str, Any]]:
    """`amount` correct rows and `amount` others, of all verdicts in turn; those with a picture first."""
    ordered = sorted(rows, key=lambda row: not has_picture(row))
    right = [row for row in ordered if row["verdict"] == RIGHT]
    others = [verdict.value for verdict in Verdict if verdict.value != RIGHT]
    kinds = [[row for row in ordered if row["verdict"] == verdict] for verdict in others]
    turns = [kind[turn] for turn in range(amount) for kind in kinds if turn < len(kind)]
    return right[:amount] + turns[:amount]


def _has_picture(stage: StageRecord, pictures: Pictures) -> Callable[[dict[str, Any]], bool]:
    return lambda row: bool(pictures.find(row, stage))


def _read_rollouts(stage: StageRecord) -> list[dict[str, Any]]:
    """The rows of rollouts.parquet, or of rollouts.jsonl while the stage still runs."""
    table = stage.folder / "rollouts.parquet" if stage.folder else None
    if table is None or not table.is_file():
        return stage.read_jsonl("rollouts.jsonl")
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_table(table).to_pylist()
    except ArrowException as error:
        raise UserError(f"{table} can't be read ({error}); restore or remove it") from error


def _make_transcript(
    row: Mapping[str, Any], stage: StageRecord, pictures: Pictures, note: str = ""
) -> Transcript:
    return Transcript(
        question=str(row["question"]),
        gold=str(row.get("gold", row.get("answer", ""))),
        response=shorten(str(row["response"]), _LONGEST),
        verdict=row.get("verdict", ""),
        note=note,
        pictures=tuple(map(load_picture, pictures.find(row, stage))),
    )


def _describe_length(row: Mapping[str, Any]) -> str:
    level = f"level {row['level']}, " if row.get("level") is not None else ""
    return f"{level}{row['tokens']} tokens{'' if row.get('finished', True) else ', cut off'}"


def _describe_sample(row: Mapping[str, Any]) -> str:
    reward = f"reward {row['reward']:g}, advantage {row['advantage']:+.2f}"
    return f"step {row['step']}, {reward}, {_describe_length(row)}"


# --- one question through the stages ------------------------------------------------------------------------


@dataclass(frozen=True)
class FollowedQuestion:
    """The responses to one question in every stage of the main branch; `change` is its title."""

    change: str
    answers: tuple[tuple[str, Transcript], ...]


def follow_questions(run: RunRecord, pictures: Pictures) -> list[FollowedQuestion]:
    """One question that the stages learned and one that they lost, where there are any."""
    stages = [stage for stage in run.stages if stage.folder and stage.evaluation and not stage.control]
    by_id = [(stage, {row["id"]: row for row in stage.read_jsonl("rows.jsonl")}) for stage in stages]
    by_id = [(stage, rows) for stage, rows in by_id if rows]
    if len(by_id) < 2:
        return []
    first, last = by_id[0][1], by_id[-1][1]
    common = [name for name in last if all(name in rows for _, rows in by_id)]
    common.sort(key=lambda name: not pictures.find(first[name], by_id[0][0]))
    right = {name: [rows[name]["verdict"] == RIGHT for _, rows in by_id] for name in common}
    learned = [name for name in common if right[name][-1] and not right[name][0]]
    lost = [name for name in common if any(right[name]) and not right[name][-1]]
    titles = {"Learned: wrong at first, right at last": learned, "Lost: right before, wrong at last": lost}
    followed = []
    for title, names in titles.items():
        if names:
            answers = [
                (stage.label, _make_transcript(rows[names[0]], stage, pictures)) for stage, rows in by_id
            ]
            followed.append(FollowedQuestion(title, tuple(answers)))
    return followed
