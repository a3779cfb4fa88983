"""What a user can mend: one sentence, no traceback."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class UserError(Exception):
    """A mistake the user can mend: one sentence that names the fault, what was expected and the fix."""
