"""vLLM servers of a run's own: started for a model, shared by the run's generators, and ended with it."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from openvlt import distributed
from openvlt.errors import UserError
from openvlt.model.export import write_untied_model
from openvlt.model.families import find_family
from openvlt.model.hf_types import ModelConfig
from openvlt.model.load import VLM
from openvlt.rollout.vllm_weights import new_folder
from openvlt.serving.vllm.client import LostServer, VLLMServer
from openvlt.serving.vllm.process import ServerOptions, ServerProcess, start_servers

_servers: dict[str, list[tuple[str, ServerProcess]]] = {}  # of this process, for all its generators


@dataclass(frozen=True)
class OwnServers:
    """Servers of this machine: on `gpus`, or else beside each process. `place` is where files are written."""

    options: ServerOptions
    gpus: Sequence[int] | None
    place: Path
    wait_s: float

    def addresses(self, vlm: VLM, key: str) -> list[str]:
        """The servers' addresses; all processes take part.

        The machine's first process starts them, if none for models of the same `key` run.
        """
        machine = distributed.rank() - local_rank()
        found: list[tuple[int, list[str]]] = []
        if local_rank() == 0:
            if key not in _servers or not all(process.is_running() for _, process in _servers[key]):
                _servers[key] = self.launch(vlm)
            found.append((machine, [url for url, _ in _servers[key]]))
        return dict(distributed.all_gather(found))[machine]

    def launch(self, vlm: VLM) -> list[tuple[str, ServerProcess]]:
        """Starts the servers with the weights of `vlm`, and waits until they are ready."""
        folder = self.place / f"openvlt-server-{secrets.token_hex(4)}"
        world = int(os.environ.get("LOCAL_WORLD_SIZE", distributed.world_size()))
        own = range(world) if self.gpus is None else self.gpus
        try:
            with new_folder(folder):
                write_untied_model(vlm, folder)
            servers = start_servers(
                str(folder), self.options, list(own) if vlm.device.type == "cuda" else [None]
            )
            many = f"{len(servers)} vLLM servers" if len(servers) > 1 else "a vLLM server"
            print(f"starting {many}, which takes a minute or more (log: {servers[0][1].log})", flush=True)
            for url, process in servers:
                atexit.register(process.stop)
                VLLMServer(url).wait(self.wait_s, process)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return servers


def check_family(config: ModelConfig) -> None:
    """Raises UserError for a model of a family that vLLM can't serve with our prompts and weights."""
    if reason := find_family(config).vllm_refusal:
        raise UserError(f"rollout=vllm can't serve {config.model_type}: {reason}")


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get("LOCAL_RANK", distributed.rank()))


@contextlib.contextmanager
def last_words(url: str) -> Iterator[None]:
    """Inside, the loss of a server that this process has started names its own error and its log."""
    try:
        yield
    except LostServer as error:
        own = [process for servers in _servers.values() for there, process in servers if there == url]
        if not own:
            raise
        raise LostServer(f"{error}; it said: {own[0].last_words()} (log: {own[0].log})") from error


def architecture(vlm: VLM) -> str:
    """A hash of what a server must share with a model to hold its weights: config, type and image sizes."""
    config = {**vlm.core.config.to_dict(), "_name_or_path": "", "tie_word_embeddings": None}  # type: ignore[attr-defined]
    images = getattr(vlm.processor, "image_processor", None)
    settings = "" if images is None else images.to_json_string()
    text = json.dumps(config, sort_keys=True, default=str)
    return hashlib.blake2b(f"{text}{settings}{vlm.core.dtype}".encode(), digest_size=8).hexdigest()
