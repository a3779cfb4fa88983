"""`openvlt push RUN REPOSITORY`: sends a trained model and its card to the Hugging Face hub."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from openvlt.errors import UserError, first_line
from openvlt.runs.directory import model_of_run

SENT_KINDS = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md")  # what a model folder is made of


def push_model(arguments: Sequence[str]) -> int:
    """Sends a model folder; returns the exit status. Says in one sentence why it can't."""
    parser = argparse.ArgumentParser(prog="openvlt push", description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder, a stage's, or a model's")
    parser.add_argument("repository", help="owner/name on the hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be sent")
    options = parser.parse_args(arguments)
    try:
        folder = find_model(options.run)
        files = model_files(folder)
        size = sum(file.stat().st_size for file in files)
        print(f"{folder} -> {options.repository}: {len(files)} files, {size / 2**20:.1f} MiB")
        if options.dry_run:
            print("\n".join(f"  {file.name}" for file in files))
        else:
            print(send_files(folder, files, options.repository, options.private))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def find_model(place: Path) -> Path:
    """The model folder of a run (of its last stage), or of a stage. Raises UserError."""
    if not place.is_dir():
        raise UserError(f"{place}: there is no such folder; give a run folder or a model folder")
    folder = model_of_run(place)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json, so it is no model; give a run with a finished stage")
    return folder


def model_files(folder: Path) -> list[Path]:
    """The files that are sent: weights, settings, tokenizer and card, and nothing else that lies there."""
    return sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in SENT_KINDS)


def send_files(folder: Path, files: Sequence[Path], repository: str, private: bool) -> str:
    """Makes the repository if there is none, and sends the files; returns its address. Raises UserError."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError  # type: ignore[attr-defined]

    try:
        hub = HfApi()
        hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[file.name for file in files],
            commit_message="Add the model and its card",
        )
    except HFValidationError as error:
        raise UserError(f"{repository} is no repository's name; give owner/name") from error
    except LocalTokenNotFoundError as error:
        raise UserError("the hub asks who you are: run `hf auth login`, or export HF_TOKEN") from error
    except (HTTPError, OSError) as error:
        raise UserError(
            f"the hub didn't take it ({first_line(error)}); check the network, the token (`hf auth login`) "
            "and your right to write there, then push again: what has arrived isn't sent twice"
        ) from error
    return f"https://huggingface.co/{repository}"
