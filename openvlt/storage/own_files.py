"""Signatures of the files that this user's runs wrote, for what must not be taken from anyone else.

Rows of a run name pictures anywhere on the disk, which were checked when the run read its data; a step that
is kept for its replay holds Python objects, and reading those can run code. Each file is signed with a key
that never leaves the user's home, since anyone can write a file that merely looks like a run's.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from pathlib import Path

from openvlt import distributed
from openvlt.storage.atomic import write_json

SIGNATURES = "signatures.json"


def sign_files(*files: Path) -> None:
    """Signs files of one folder, in its `signatures.json`; does nothing where no key can be kept."""
    key = _key() if distributed.is_main() else None
    if key is not None:
        note = files[0].parent / SIGNATURES
        write_json(note, _read(note) | {file.name: _signature(file, key) for file in files})


def is_own_file(file: Path) -> bool:
    """Whether a run of this user wrote the file as it is now."""
    signature = _read(file.parent / SIGNATURES).get(file.name)
    key = None if signature is None else _key()
    return key is not None and hmac.compare_digest(str(signature), _signature(file, key))


def _read(note: Path) -> dict[str, str]:
    try:
        content = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _signature(file: Path, key: bytes) -> str:
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").digest()
    return hmac.new(key, file.name.encode() + digest, "sha256").hexdigest()


def _key() -> bytes | None:
    """This user's key, made at first use; None where the home folder can't be written."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    file = Path(state) / "openvlt" / "key"
    try:
        if not file.is_file():
            _make_key(file)
        key = file.read_bytes()
    except OSError:
        return None
    return key if len(key) == 32 else None


def _make_key(file: Path) -> None:
    """Writes a new key, whole, unless another process was first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=file.parent)  # readable by this user alone
    with open(descriptor, "wb") as fresh:
        fresh.write(secrets.token_bytes(32))
    with contextlib.suppress(FileExistsError):
        os.link(aside, file)
    os.unlink(aside)
