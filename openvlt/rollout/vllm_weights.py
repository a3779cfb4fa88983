"""How new weights reach vLLM servers: as files, over a process group, or as an adapter alone."""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from openvlt.errors import UserError
from openvlt.model.export import merged_weights, weights_digest, write_weights
from openvlt.model.load import VLM
from openvlt.serving.vllm.client import VLLMServer
from openvlt.serving.vllm.worker import join_group

VISION_PARTS = (".visual.", ".vision_tower.", ".vision_model.")


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Makes a folder for the block to write in. Raises UserError, and leaves none, where that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"{folder}: the weights can't be written there ({why}); give "
            "rollout.folder=<a folder with room for the whole model>"
        ) from error


@dataclass
class FileRoute:
    """Weights as safetensors files in a folder that the server reads. `place` is where folders are made."""

    place: Path
    name: str

    def prepare(self, vlm: VLM, version: str) -> None:
        """Writes the files: called on one process of each machine before `send`, on any server's process."""
        with new_folder(self._folder(version)) as folder:
            write_weights(merged_weights(vlm), folder)

    def send(self, vlm: VLM, server: VLLMServer, version: str) -> None:
        """Has a server read the files."""
        server.replace_weights("receive_folder", [str(self._folder(version))], version)

    def clean(self, version: str) -> None:
        """Removes the files, when every server has read them."""
        shutil.rmtree(self._folder(version), ignore_errors=True)

    def _folder(self, version: str) -> Path:
        return self.place / f"{self.name}-{version}"


@dataclass
class GroupRoute:
    """Weights over a process group with the workers of a server: gloo through host memory, or NCCL.

    NCCL is for servers on other GPUs than this process's: it refuses two processes on one.
    """

    backend: str = "gloo"

    def prepare(self, vlm: VLM, version: str) -> None:
        """Does nothing: tensors go when they are asked for."""

    def clean(self, version: str) -> None:
        """Does nothing: nothing was written."""

    def send(self, vlm: VLM, server: VLLMServer, version: str) -> None:
        """Broadcasts every tensor to a server's workers."""
        group = _groups.get((server.url, self.backend)) or self._join(server)
        named = [(name, value.dtype, list(value.shape)) for name, value in merged_weights(vlm)]
        names, dtypes, shapes = (list(column) for column in zip(*named, strict=True))
        words = [str(dtype).removeprefix("torch.") for dtype in dtypes]
        with _beside(server.replace_weights, "receive_group", [names, words, shapes], version):
            for _, value in merged_weights(vlm):
                value = value if self.backend == "nccl" else value.cpu()
                group.broadcast(value.contiguous(), 0).wait()

    def _join(self, server: VLLMServer) -> Any:
        host = "127.0.0.1" if server.is_local() else socket.gethostbyname(socket.gethostname())
        with socket.socket() as probe:
            probe.bind((host, 0))
            port = probe.getsockname()[1]
        size = 1 + server.worker_count()
        with _beside(server.call_workers, "join_senders", [host, port, size, self.backend]):
            _groups[server.url, self.backend] = join_group(host, port, 0, size, self.backend)
        return _groups[server.url, self.backend]


_groups: dict[tuple[str, str], Any] = {}  # of this process: a server's workers are in one at a time


@contextlib.contextmanager
def _beside(call: Any, *arguments: Any) -> Iterator[None]:
    """Runs a call in a thread beside the block; its error is raised after the block, or for the block's."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            call(*arguments)
        except Exception as error:  # raised below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    except RuntimeError as error:  # the group's: the other side is gone, and knows why
        thread.join(10)
        raise (errors or [error])[0] from error
    thread.join()
    if errors:
        raise errors[0]


@dataclass
class AdapterRoute:
    """The adapter alone, under a name of its own for every version; the base weights stay in the server."""

    place: Path
    name: str
    _sent: dict[str, tuple[str, Path]] = field(
        default_factory=dict
    )  # of each server: the latest name and folder

    def send(self, vlm: VLM, server: VLLMServer, version: str) -> None:
        """Loads the adapter into a server and forgets the one before."""
        folder = self.place / f"{self.name}-{version}-{server.url.rpartition(':')[2]}"
        with new_folder(folder):
            write_adapter(vlm, folder)
        server.load_adapter(f"adapter-{version}", str(folder))
        before = self._sent.get(server.url)
        self._sent[server.url] = (f"adapter-{version}", folder)
        if before is not None:
            if before[0] in server.adapters():
                server.unload_adapter(before[0])
            shutil.rmtree(before[1], ignore_errors=True)

    def clean(self) -> None:
        """Removes all files."""
        for _, folder in self._sent.values():
            shutil.rmtree(folder, ignore_errors=True)


def adapter_weights(vlm: VLM) -> dict[str, Tensor]:
    """The active adapter's tensors under PEFT's names. Raises UserError for what vLLM can't take."""
    found = {
        name.replace(".default", ""): value.detach()
        for name, value in vlm.model.named_parameters()
        if ".lora_" in name
    }
    trained = {
        name.replace(".default", "") for name, value in vlm.model.named_parameters() if value.requires_grad
    }
    other = sorted(trained - set(found))
    vision = sorted(name for name in found if any(part in name for part in VISION_PARTS))
    kinds = sorted(name for name in found if not name.endswith((".lora_A.weight", ".lora_B.weight")))
    for names, why in (
        (other, "is trained beside the adapter"),
        (vision, "is on the vision tower, where vLLM takes it and leaves it out"),
        (kinds, "is of a kind that vLLM doesn't know"),
    ):
        if names:
            raise UserError(
                f"rollout.weights=adapter can't send {names[0]}: it {why}; use rollout.weights=files"
            )
    return found


def write_adapter(vlm: VLM, folder: Path) -> None:
    """Writes the active adapter into a folder, as PEFT does."""
    weights = {name: value.contiguous().cpu() for name, value in adapter_weights(vlm).items()}
    settings: Mapping[str, Any] = vlm.model.peft_config  # type: ignore[attr-defined]
    settings["default"].save_pretrained(str(folder))
    save_file(weights, folder / "adapter_model.safetensors")


@torch.no_grad()
def adapter_version(vlm: VLM) -> str:
    """A hash of the active adapter's weights."""
    return weights_digest(sorted(adapter_weights(vlm).items()))
