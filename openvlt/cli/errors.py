"""Errors as the user sees them: one sentence and an exit status."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from yaml import MarkedYAMLError

from openvlt.cli.ranks import claim_report
from openvlt.cli.unknown_keys import explain_unknown_key
from openvlt.data.errors import (
    BadRows,
    EvaluationDataOnly,
    ExcludedLevels,
    MissingColumn,
    MissingSplit,
    MixtureWanted,
    PromptTooLong,
    TooFewProblems,
    UnavailableDataSet,
    UnknownLevels,
    UnknownSplit,
    WorkerEnded,
)
from openvlt.errors import UserError, first_line
from openvlt.runs.secrets import hide_secrets

DISK_ERRORS = (errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.ENOTDIR)


@contextlib.contextmanager
def report_errors(errors: tuple[type[Exception], ...], numbers: tuple[int, ...]) -> Iterator[None]:
    """Turns these errors, and an OSError of these numbers, into one sentence and exit status 2.

    It is entered inside the job too, because Hydra prints its own message for an error that reaches it.
    OPENVLT_TRACEBACK=1 shows the traceback. A reader that has gone away (`| head`) ends it without a word.
    """
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python tries once more at its end, and complains
        sys.exit(128 + signal.SIGPIPE)
    except (*errors, OSError) as error:
        expected = isinstance(error, errors) or (isinstance(error, OSError) and error.errno in numbers)
        if not expected or os.environ.get("OPENVLT_TRACEBACK"):
            raise
        if claim_report(2):  # all ranks meet the same mistake
            print(f"error: {hide_secrets(error_sentence(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        claim_report(130)  # the other ranks then end in silence
        sys.exit(130)


def error_sentence(error: Exception) -> str:
    """One sentence about an error that a user can mend: the fault, and how to mend it."""
    if isinstance(error, OSError) and error.errno is not None:
        return (
            f"{error.filename or 'the disk'}: {error.strerror}; "
            "free space, or choose other places with paths.runs=<folder> paths.cache=<folder>"
        )
    text = str(error).partition("UserError raised while resolving interpolation: ")[2] or str(error)
    text = _name_as_written(text, sys.argv[1:])
    if found := re.search(r"Ambiguous value for argument '([^=]+)=(.*)'", text):
        key, values = found.groups()
        return (
            f"{key}={values} are several values; "
            f"add -m to run one after the other, or write a list: '{key}=[{values}]'"
        )
    if (override := getattr(error, "override", None)) is not None:
        return (
            f"{override!r} can't be read ({first_line(text)}); "
            "write key=value, quote lists and braces: 'key=[1,2]'"
        )
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark) is not None:
        return f"{mark.name}, line {mark.line + 1}: this is no valid YAML ({error.problem}); mend the line"
    if "Could not override" in text or "not in struct" in text:
        found = re.search(r"full_key: (\S+)", text) or re.search(r"Could not override '([^']+)'", text)
        append = re.search(r"use (\+.+)", text)
        return explain_unknown_key(found[1] if found else first_line(text), append and append[1])
    if found := re.search(r"Could not find '([^']+)'", text):
        if options := re.findall(r"^\t(\S+)$", text, re.MULTILINE):
            close = difflib.get_close_matches(found[1].rpartition("/")[2], options, 1)
            meant = f"did you mean {close[0]}? " if close else ""
            place = ", or give a folder or a hub id (owner/name)" if found[1].startswith("model/") else ""
            return f"there is no config {found[1]!r}; {meant}choose from {', '.join(options)}{place}"
        return first_line(str(error))
    if not isinstance(error, UserError):
        return first_line(text)
    fix = fix_for(error)
    return f"{text}; {fix}" if fix else text


def _name_as_written(text: str, arguments: Sequence[str]) -> str:
    """The text with a setting named as the user wrote it, not by a group that refers to it."""
    if not (found := re.match(r"([\w.\[\]]+\.(\w+))=([^;]*?) (is|are) no ", text)):
        return text
    pairs = [argument.lstrip("+").partition("=") for argument in arguments]
    meant = [key for key, _, value in pairs if key.endswith(f".{found[2]}") and value == found[3].strip("'")]
    return text.replace(found[1], meant[0]) if len(meant) == 1 else text


# --- the settings that mend what is wrong with data ---------------------------------------------------------


def fix_for(error: BaseException) -> str | None:
    """What to set on the command line against an error of the data, or one that ends with its text."""
    fix = _DATA_FIXES.get(type(error))
    if fix is not None:
        return fix(error)
    cause = error.__cause__
    return fix_for(cause) if cause is not None and str(error).endswith(str(cause)) else None


def _all_rows(key: str) -> str:
    """How each script selects all rows, whatever their `key` (amount, levels, sources)."""
    return (
        f"take all rows: train.py +experiment=own, distill.py select.{key}=null, "
        f"evaluate.py evaluation.selection.{key}=null"
    )


def _name_split(error: MissingSplit) -> str:
    settings = [] if error.setting is None else [f"data.{error.setting}"]
    if error.split != "train":
        settings.append("data.heldout=0.1 to set a tenth of its rows aside")
    if error.split == "test":
        settings.append("evaluation.selection.split=train to score a model on all of them")
    return f"set {', or '.join(settings)}"


def _choose_levels(error: ExcludedLevels) -> str:
    levels = list(error.there)
    stages = " ".join(f"cycles.one.{stage}.levels={levels}" for stage in ("traces", "problems"))
    return f"each stage has levels of its own, set them: {stages}; distill.py: select.levels={levels}"


_DATA_FIXES: dict[type, Callable[[Any], str | None]] = {
    MissingSplit: _name_split,
    TooFewProblems: lambda error: (
        f"lower the amount (to judge the models: evaluation.selection.amount={error.there}), add data, "
        f"or {_all_rows('amount')}"
    ),
    UnknownLevels: lambda error: f"name the column in data.columns.level, or {_all_rows('levels')}",
    ExcludedLevels: _choose_levels,
    MixtureWanted: lambda error: f"choose one such as data=openvlthinker, or {_all_rows('sources')}",
    MissingColumn: lambda error: (
        f"set data.columns.{error.field} "
        f"({'null: no images' if error.field == 'images' else 'a dotted name reads inside of objects'})"
        ", or convert the rows with data.convert"
    ),
    UnknownSplit: lambda error: "change data.splits",
    UnavailableDataSet: lambda error: (
        "check data.path, data.name and data.splits, or give the folder of a local copy"
    ),
    EvaluationDataOnly: lambda error: (
        f"train on something else, or take the blame by name: data.force={error.name}"
    ),
    BadRows: lambda error: error.__cause__ and fix_for(error.__cause__),
    PromptTooLong: lambda error: "lower model.max_pixels or raise prompt.max_tokens",
    WorkerEnded: lambda error: "trainer.workers=0 does without it",
}
