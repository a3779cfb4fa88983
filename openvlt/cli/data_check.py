"""`openvlt data check FILE`: what is recognised in a file of rows, what is trained on, what not and why."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from openvlt.cli.errors import error_sentence
from openvlt.data.errors import DataError
from openvlt.data.rows.columns import Columns
from openvlt.data.rows.files import find_row_file, open_rows
from openvlt.data.rows.lazy import id_fraction
from openvlt.data.sources.base import Selection
from openvlt.data.sources.local import LocalRows
from openvlt.data.sources.splits import split_share
from openvlt.errors import UserError

IMAGES = ("images", "image", "image_path", "file_name")  # as in conf/data/jsonl.yaml
HEAD = 1000  # rows whose columns are looked at
BAD_SHOWN = 5  # bad rows
EVERY_S = 10.0  # between two lines about how far it is
WIDTH, LINES = 100, 8  # of a row as the model sees it


def data_check(arguments: list[str]) -> int:
    """Prints a page about a file of rows. Returns 0, 1 where rows are bad, 2 where nothing can be read."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as end:  # --help, or a word that argparse has refused
        return int(end.code or 0)
    try:
        text, bad = _check(options)
    except UserError as error:
        print(f"error: {error_sentence(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or options.path}: {error.strerror}", file=sys.stderr)
        return 2
    print(text)
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="openvlt data check", description=__doc__)
    parser.add_argument("path", help=".jsonl, .json, .parquet, .csv, .tsv, or a folder with metadata.jsonl")
    parser.add_argument("--model", help="whose prompts are counted: a folder or a hub id (default: tiny)")
    parser.add_argument(
        "--columns", nargs="+", default=[], metavar="ROLE=COLUMN", help="as data.columns.ROLE=COLUMN of a run"
    )
    parser.add_argument("--heldout", type=float, default=0.1, help="the share for test and for val (0.1)")
    parser.add_argument("--max-tokens", type=int, default=6144, help="the longest prompt (6144)")
    parser.add_argument("--max-pixels", type=int, help="the largest picture the model is shown")
    parser.add_argument("--anywhere", action="store_true", help="pictures may lie outside of the folder")
    parser.add_argument("--heads", action="store_true", help="read only the heads of pictures: quicker")
    return parser


def _check(options: argparse.Namespace) -> tuple[str, bool]:
    """The page, and whether rows are bad."""
    from openvlt.data.row_summary import RowSummary, describe_roles, guess_columns, summarise_rows

    given = Path(options.path)
    if not given.exists():
        raise UserError(f"{given} does not exist (looked in {Path.cwd()}); correct the path")
    file = find_row_file(given)
    head = [row for _, row in islice(open_rows(file).scan(), HEAD) if isinstance(row, dict)]
    asked = _read_columns(options.columns)
    columns = guess_columns(asked, head)
    source = LocalRows(options.path, columns, skip_bad=True, anywhere=options.anywhere)
    problems: Sequence[Any] = []
    try:
        problems = source.problems(Selection(), 0)
    except UserError as error:
        if not source.skipped or isinstance(error, DataError):
            raise
    check, name = _row_check(options)
    found: RowSummary = summarise_rows(problems, check, source.skipped, _Progress(str(file)))
    settings = _settings(asked, columns)
    parts = [
        f"{file}: {_count(len(found.ids) + len(found.bad), 'row')}, {len(found.bad)} of them bad",
        _describe_columns(*describe_roles(columns, head), settings),
        _describe_sizes(found, name, options.max_tokens),
        _describe_splits(found.ids, options.heldout),
        _describe_bad(found.bad),
        _describe_examples(found.examples, check.renderers[0], name),
        " ".join(["train on them: python train.py +experiment=own", f"data.path={options.path}", *settings]),
    ]
    return "\n\n".join(part for part in parts if part), bool(found.bad)


def _read_columns(words: Sequence[str]) -> Columns:
    """The columns with those that were given. Raises UserError for a word that isn't ROLE=COLUMN."""
    columns = Columns(images=IMAGES)
    for word in words:
        role, equals, column = word.removeprefix("data.columns.").partition("=")
        if not equals or not column or not hasattr(columns, role):
            roles = ", ".join(vars(columns))
            raise UserError(f"--columns {word} is not ROLE=COLUMN; the roles are {roles}")
        columns = replace(columns, **{role: None if column == "null" and role == "images" else column})
    return columns


def _settings(asked: Columns, used: Columns) -> list[str]:
    """The settings that a run needs for these columns."""
    usual = Columns(images=IMAGES)
    different = {role: value for role, value in vars(used).items() if value != getattr(usual, role)}
    return [f"data.columns.{role}={'null' if value is None else value}" for role, value in different.items()]


def _row_check(options: argparse.Namespace) -> tuple[Any, str]:
    """The check of rows under a model's processor, and the model's name."""
    from openvlt.data.prompts import PromptStyle, Renderer
    from openvlt.data.row_check import RowCheck
    from openvlt.data.synthetic.sources import Figures, tokenizer_corpus
    from openvlt.model.load import PretrainedModel
    from openvlt.model.tiny import TinyConfig, make_processor, make_tokenizer
    from openvlt.runs.directory import model_of_run

    sizes = TinyConfig()
    if options.model is None or options.model == "tiny":
        tokenizer = make_tokenizer(tokenizer_corpus(Figures()), sizes.vocabulary)
        processor: Any = make_processor(tokenizer, sizes)
    else:
        folder = Path(options.model)
        place = str(model_of_run(folder)) if folder.is_dir() else options.model
        processor = PretrainedModel(place, max_pixels=options.max_pixels).load_processor()
    renderer = Renderer(processor, PromptStyle(max_tokens=options.max_tokens))
    return RowCheck([renderer], decode=not options.heads), options.model or "tiny"


class _Progress:
    """Says on stderr, now and then, how many rows have been looked at."""

    def __init__(self, name: str) -> None:
        self.name, self.told = name, time.monotonic()

    def __call__(self, done: int, count: int) -> None:
        if time.monotonic() - self.told > EVERY_S and done < count:
            self.told = time.monotonic()
            print(f"{self.name}: {done} of {count} rows", file=sys.stderr, flush=True)


# --- the page -----------------------------------------------------------------------------------------------


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _describe_columns(roles: dict[str, str], unread: Sequence[str], settings: Sequence[str]) -> str:
    needed = dict(setting.removeprefix("data.columns.").split("=", 1) for setting in settings)
    lines = [
        f"  {role:<12} {column}{f'   (a run needs data.columns.{role}={column})' if role in needed else ''}"
        for role, column in roles.items()
    ]
    lines += [f"  {'not read':<12} {', '.join(unread)}"] if unread else []
    return "\n".join(["columns", *lines])


def _describe_sizes(found: Any, model: str, limit: int) -> str:
    if not found.ids:
        return ""
    pictures = "none"
    if found.pictures:
        small, large = (f"{width} x {height}" for width, height in (found.smallest, found.largest))
        rows = _count(found.with_pictures, "row")
        pictures = f"{found.pictures} in {rows}, {small if small == large else f'{small} to {large}'} pixels"
    tokens = sorted(found.tokens)
    middle, most = tokens[len(tokens) // 2], tokens[min(len(tokens) - 1, 95 * len(tokens) // 100)]
    prompts = f"{tokens[0]} to {tokens[-1]}, half of them up to {middle}, 95 % up to {most}"
    return f"pictures       {pictures}\nprompt tokens  {prompts} ({model}; at most {limit})"


def _describe_splits(ids: Sequence[str], heldout: float) -> str:
    if not ids:
        return "trained on     nothing: no row is good"
    shares = {split: split_share(split, heldout, ["train"])[1] for split in ("train", "val", "test")}
    places = [id_fraction(name) for name in ids]
    counts = {split: sum(low <= place < high for place in places) for split, (low, high) in shares.items()}
    told = ", ".join(f"{count} {split}" for split, count in counts.items() if heldout or split == "train")
    return f"trained on     {told} (data.heldout={heldout:g})"


def _describe_bad(bad: dict[str, str]) -> str:
    if not bad:
        return ""
    lines = [f"  {reason}" for reason in list(bad.values())[:BAD_SHOWN]]
    lines += [f"  and {len(bad) - BAD_SHOWN} more"] if len(bad) > BAD_SHOWN else []
    rows = f"{_count(len(bad), 'row')}: {'it stops' if len(bad) == 1 else 'they stop'} a run"
    return "\n".join([f"left out       {rows}, or data.skip_bad=true leaves such rows out", *lines])


def _describe_examples(examples: Sequence[Any], renderer: Any, model: str) -> str:
    blocks = []
    for number, problem in enumerate(examples, 1):
        text = [_cut(line) for line in renderer.text(problem).splitlines() if line.strip()]
        shown = (
            text if len(text) <= LINES else [*text[: LINES - 1], f"... {len(text) - LINES + 1} lines more"]
        )
        answer = f"answer: {_cut(problem.answer)}"
        blocks.append("\n".join([f"{number}. {problem.place}", *(f"   {line}" for line in [*shown, answer])]))
    return "\n".join([f"rows as {model} sees them", *blocks]) if blocks else ""


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."


if __name__ == "__main__":
    sys.exit(data_check(sys.argv[1:]))
