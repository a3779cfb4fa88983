"""The files of a model folder, checked before anything is loaded: whole, no pointers, nothing missing."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from openvlt.errors import UserError, first_line

POINTER = b"version https://git-lfs.github.com/spec"
WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")  # in transformers' order
ADAPTER = "adapter_config.json"
AGAIN = "download it again, or copy it from the base model"


def check_model_path(path: str) -> None:
    """Raises UserError when `path` can be neither a model folder nor a hub id (`name` or `owner/name`)."""
    folder = Path(path)
    if folder.is_file():
        raise UserError(f"{path} is a file; give the folder that it lies in")
    if folder.exists() and not any((folder / name).is_file() for name in ("config.json", ADAPTER)):
        there = sorted(file.name for file in folder.iterdir())
        holds = f"only {', '.join(there[:4])}{', …' if len(there) > 4 else ''}" if there else "nothing"
        raise UserError(
            f"{path}: no config.json there ({holds}); give a Hugging Face model folder, a run folder or a "
            "hub id"
        )
    if not folder.exists() and (path.count("/") > 1 or path.startswith((".", "/", "~"))):
        raise UserError(
            f"{path}: there is no such folder; give a Hugging Face model folder, a run folder or a hub id"
        )


def check_model_files(folder: Path) -> None:
    """Raises UserError for a file of a model folder that is a pointer, cut off, or missing."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    if pointers := [file.name for file in files if is_pointer(file)]:
        raise UserError(
            f"{folder}: {_some(pointers)} {'is a pointer' if len(pointers) == 1 else 'are pointers'} of Git "
            "LFS, not the file itself; run `git lfs pull` in the folder, or download the model again"
        )
    for file in files:
        if file.suffix == ".json":
            _check_json(file)
        elif file.suffix == ".safetensors":
            _check_safetensors(file)
        elif file.suffix == ".bin":
            _check_zip(file)
    _check_templates(folder)
    _check_weight_files(folder, [file.name for file in files])


def is_pointer(file: Path) -> bool:
    """Whether a file is what Git LFS leaves in place of the one that it stands for."""
    with file.open("rb") as lines:
        return lines.read(len(POINTER)) == POINTER


def find_adapter_base(path: str | Path) -> str | None:
    """The base model that the adapter in a folder belongs to; None for a whole model and for a hub id.

    Raises UserError where it isn't named, and for a folder that holds an adapter beside a whole model.
    """
    file = Path(path) / ADAPTER
    if not file.is_file():
        return None
    if any((Path(path) / name).is_file() for name in (*WHOLE_FILES, *map(_index_of, WHOLE_FILES))):
        raise UserError(
            f"{path} holds a whole model and an adapter ({ADAPTER}), and it isn't said which is meant; move "
            "one of them to a folder of its own"
        )
    base = _check_json(file).get("base_model_name_or_path")
    if not base:
        raise UserError(
            f"{file} names no base model; set base_model_name_or_path in it to the folder or hub id of the "
            "model that the adapter was trained on"
        )
    return str(base)


def _check_json(file: Path) -> Any:
    """The content of a JSON file. Raises UserError where it can't be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{file} is no valid JSON ({first_line(error)}): it is cut off or damaged; {AGAIN}"
        ) from error
    if file.name == "chat_template.json" and "chat_template" not in content:
        raise UserError(f'{file} has no "chat_template"; {AGAIN}')
    return content


def _check_safetensors(file: Path) -> None:
    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        raise UserError(
            f"{file} ({file.stat().st_size:,} bytes) is cut off or damaged ({first_line(error)}); "
            "download it again"
        ) from error


def _check_zip(file: Path) -> None:
    """Raises UserError for a cut file of torch's; one of another format is left to its reader."""
    with file.open("rb") as handle:
        start = handle.read(2)
    if not start or (start == b"PK" and not zipfile.is_zipfile(file)):
        raise UserError(f"{file} ({file.stat().st_size:,} bytes) is cut off; download it again")


def _check_templates(folder: Path) -> None:
    """Raises UserError for two chat templates that differ: transformers would read the older file."""
    old, new = folder / "chat_template.json", folder / "chat_template.jinja"
    if old.is_file() and new.is_file():
        template = _check_json(old)["chat_template"]
        if isinstance(template, str) and template.strip() != new.read_text(encoding="utf-8").strip():
            raise UserError(
                f"{folder}: {old.name} and {new.name} hold different chat templates; remove the one that "
                "isn't meant"
            )


def _check_weight_files(folder: Path, there: Sequence[str]) -> None:
    """Raises UserError when weights, or parts that the index of the weights names, are missing."""
    if find_adapter_base(folder) is not None:
        if not any(name in there for name in ("adapter_model.safetensors", "adapter_model.bin")):
            raise UserError(f"{folder}: an adapter without adapter_model.safetensors; {AGAIN}")
        return
    for whole in WHOLE_FILES:
        if whole in there:
            return
        if _index_of(whole) in there:
            index = _check_json(folder / _index_of(whole))
            parts = sorted(set(index.get("weight_map", {}).values()))
            if missing := [part for part in parts if part not in there]:
                raise UserError(
                    f"{folder}: {len(missing)} of {len(parts)} files of weights that {_index_of(whole)} "
                    f"names are missing ({_some(missing)}); download them"
                )
            return
    parts = [name for name in there if name.endswith((".safetensors", ".bin", ".pt", ".pth", ".gguf"))]
    found = f", only {_some(parts)}, and no index" if parts else ""
    raise UserError(
        f"{folder}: no weights there (model.safetensors, or parts with model.safetensors.index.json)"
        f"{found}; download the model again"
    )


def _index_of(whole: str) -> str:
    """The index of weights in several files."""
    return f"{whole}.index.json"


def _some(names: Sequence[str]) -> str:
    """The first names of a list."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
