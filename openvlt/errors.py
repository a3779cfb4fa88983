"""Mistakes that the user can mend: one sentence, no traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend: one sentence that names the fault, what was expected and the fix."""


def first_line(message: Exception | str) -> str:
    """The first line of a message. An empty error gives its class's name, an empty text "no message"."""
    empty = "no message" if isinstance(message, str) else type(message).__name__
    return next(iter(str(message).strip().splitlines()), empty)
