"""What the models said: a handful of answers per stage, right and wrong, each with its picture where one is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvlt.data.images import data_url, open_image
from openvlt.errors import UserError
from openvlt.report.records import RunRecord, StageRecord
from openvlt.storage.jsonl import read_lines
from openvlt.types import Verdict

RIGHT = Verdict.CORRECT.value
_LONGEST = 4000  # characters of one response
_WIDEST = 640  # pixels of a picture's longer side
_SMALL = 200  # pixels: pictures up to this size are magnified without smoothing


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI; without one, `missing` says why. `small` ones want magnifying."""

    uri: str = ""
    missing: str = ""
    small: bool = False


@dataclass(frozen=True)
class Transcript:
    """One answer as the page shows it; `verdict` is empty where none was passed, `note` is what else is known."""

    question: str
    gold: str
    response: str
    verdict: str
    note: str
    pictures: tuple[Picture, ...]

    @property
    def right(self) -> bool:
        """Whether the verifier accepted it."""
        return self.verdict == RIGHT


class Pictures:
    """Where a run's pictures lie: a row may name `images` in its stage's folder, else the traces of its problem do."""

    def __init__(self, stages: Iterable[StageRecord]) -> None:
        self._of_problem: dict[str, list[Path]] = {}
        for stage in stages:
            for row in read_lines(stage.folder / "traces.jsonl") if stage.folder else ():
                if paths := _paths(row, stage.folder):
                    self._of_problem.setdefault(str(row.get("id")), paths)

    def find(self, row: Mapping[str, Any], folder: Path) -> list[Path]:
        """The pictures of a row, [] when none is known."""
        return _paths(row, folder) or self._of_problem.get(str(row.get("id", row.get("problem"))), [])


def _paths(row: Mapping[str, Any], folder: Path) -> list[Path]:
    named = row.get("images") or row.get("image") or []
    return [folder / path for path in ([named] if isinstance(named, str) else named)]


def picture(path: Path) -> Picture:
    """A picture ready to be put into the page, at most `_WIDEST` pixels wide or high."""
    try:
        image = open_image(path, path.name)
    except UserError:
        return Picture(missing=f"{path.name} can't be read")
    small = max(image.size) <= _SMALL
    image.thumbnail((_WIDEST, _WIDEST))
    return Picture(data_url(image, "PNG" if small else "JPEG"), small=small)


# --- one stage --------------------------------------------------------------------------------------------------------


def answer_transcripts(stage: StageRecord, pictures: Pictures, amount: int = 3) -> list[Transcript]:
    """Up to `amount` right and `amount` wrong answers of the stage's evaluation, those with a picture first."""
    rows = read_lines(stage.folder / "rows.jsonl") if stage.folder else []
    return [
        _transcript(row, stage.folder, pictures, _length(row))
        for row in right_and_wrong(rows, _seen(stage, pictures), amount)
    ]


def sample_transcripts(stage: StageRecord, pictures: Pictures, amount: int = 2) -> list[Transcript]:
    """Up to `amount` rewarded and `amount` unrewarded completions of the first and the last rollout that was kept."""
    rows = _rollouts(stage)
    steps = dict.fromkeys([rows[0]["step"], rows[-1]["step"]]) if rows else {}
    chosen = [
        row
        for step in steps
        for row in right_and_wrong(
            [row for row in rows if row["step"] == step], _seen(stage, pictures), amount
        )
    ]
    return [_transcript(row, stage.folder, pictures, _sampled(row)) for row in chosen]


def trace_transcripts(stage: StageRecord, pictures: Pictures, amount: int = 4) -> list[Transcript]:
    """The first `amount` of the traces a distillation kept."""
    rows = read_lines(stage.folder / "traces.jsonl") if stage.folder else []
    return [_transcript(row, stage.folder, pictures) for row in rows[:amount]]


def shorten(text: str, longest: int) -> str:
    """The text, or its first `longest` characters and how many more there are."""
    return f"{text[:longest]} … [{len(text) - longest} more characters]" if len(text) > longest else text


def right_and_wrong(
    rows: Sequence[dict[str, Any]], seen: Callable[[dict[str, Any]], bool], amount: int
) -> list[dict[str, Any]]:
    """`amount` correct rows and `amount` others, the others of as many verdicts as there are; the `seen` ones first."""
    ordered = sorted(rows, key=lambda row: not seen(row))
    right = [row for row in ordered if row["verdict"] == RIGHT]
    others = [verdict.value for verdict in Verdict if verdict.value != RIGHT]
    kinds = [[row for row in ordered if row["verdict"] == verdict] for verdict in others]
    turns = [kind[turn] for turn in range(amount) for kind in kinds if turn < len(kind)]
    return right[:amount] + turns[:amount]


def _seen(stage: StageRecord, pictures: Pictures) -> Callable[[dict[str, Any]], bool]:
    return lambda row: bool(pictures.find(row, stage.folder))


def _rollouts(stage: StageRecord) -> list[dict[str, Any]]:
    """rollouts.parquet, or of a stage that still runs the lines that become it."""
    if not stage.folder:
        return []
    if not (stage.folder / "rollouts.parquet").is_file():
        return read_lines(stage.folder / "rollouts.jsonl")
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_table(stage.folder / "rollouts.parquet").to_pylist()
    except ArrowException as error:
        raise UserError(
            f"{stage.folder / 'rollouts.parquet'} can't be read ({error}); restore or remove it"
        ) from error


def _transcript(row: Mapping[str, Any], folder: Path, pictures: Pictures, note: str = "") -> Transcript:
    gold = str(row.get("gold", row.get("answer", "")))
    shown = tuple(map(picture, pictures.find(row, folder)))
    return Transcript(
        str(row["question"]),
        gold,
        shorten(str(row["response"]), _LONGEST),
        row.get("verdict", ""),
        note,
        shown,
    )


def _length(row: Mapping[str, Any]) -> str:
    level = f"level {row['level']}, " if row.get("level") is not None else ""
    return f"{level}{row['tokens']} tokens{'' if row.get('finished', True) else ', cut off'}"


def _sampled(row: Mapping[str, Any]) -> str:
    return f"step {row['step']}, reward {row['reward']:g}, advantage {row['advantage']:+.2f}, {_length(row)}"


# --- one question through the stages ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FollowedQuestion:
    """The same question in every stage of the main branch: `change` says what became of it."""

    change: str
    answers: tuple[tuple[str, Transcript], ...]


def follow_questions(run: RunRecord, pictures: Pictures) -> list[FollowedQuestion]:
    """A question that the stages learned, and one that they lost; where there are such."""
    stages = [stage for stage in run.stages if stage.folder and stage.evaluation and not stage.control]
    by_id = [(stage, {row["id"]: row for row in read_lines(stage.folder / "rows.jsonl")}) for stage in stages]
    by_id = [(stage, rows) for stage, rows in by_id if rows]
    if len(by_id) < 2:
        return []
    first, last = by_id[0][1], by_id[-1][1]
    common = [name for name in last if all(name in rows for _, rows in by_id)]
    common.sort(key=lambda name: not pictures.find(first[name], by_id[0][0].folder))
    right = {name: [rows[name]["verdict"] == RIGHT for _, rows in by_id] for name in common}
    learned = [name for name in common if right[name][-1] and not right[name][0]]
    lost = [name for name in common if any(right[name]) and not right[name][-1]]
    titles = {"Learned: wrong at first, right at last": learned, "Lost: right before, wrong at last": lost}
    return [
        FollowedQuestion(
            title,
            tuple(
                (stage.label, _transcript(rows[names[0]], stage.folder, pictures)) for stage, rows in by_id
            ),
        )
        for title, names in titles.items()
        if names
    ]
