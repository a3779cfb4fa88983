"""What a vLLM server runs of ours: a worker extension that takes weights, and a check of keys.

Runs in the server's environment, which needs nothing of this project's but this file:
`--worker-extension-cls openvlt.serving.vllm.worker.WeightReceiver`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed import distributed_c10d

JOIN_TIMEOUT = timedelta(minutes=2)


def join_group(host: str, port: int, rank: int, size: int, backend: str) -> Any:
    """A process group of trainer (rank 0) and workers, beside the default one of each."""
    store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
        host, port, size, is_master=rank == 0, timeout=JOIN_TIMEOUT
    )
    prefixed = distributed_c10d.PrefixStore("openvlt-weights", store)
    if backend == "nccl":
        nccl: Any = distributed_c10d.ProcessGroupNCCL
        return nccl(prefixed, rank, size)
    gloo: Any = distributed_c10d.ProcessGroupGloo
    return gloo(prefixed, rank, size, JOIN_TIMEOUT)


class WeightReceiver:
    """Methods that vLLM adds to its workers, for `/collective_rpc`."""

    rank: int
    device: torch.device
    model_runner: Any

    def receive_folder(self, folder: str) -> None:
        """Loads every tensor of the safetensors files in a folder. Raises ValueError when one is missing."""
        self._load(_read_folder(Path(folder)))

    def join_senders(self, host: str, port: int, size: int, backend: str) -> None:
        """Joins the group over which `receive_group` will get weights."""
        self.senders = join_group(host, port, 1 + self.rank, size, backend)
        self.senders_device = self.device if backend == "nccl" else torch.device("cpu")

    def receive_group(self, names: list[str], dtypes: list[str], shapes: list[list[int]]) -> None:
        """Loads tensors that the trainer broadcasts in this order. Raises ValueError when one is missing."""
        self._load(self._arriving(names, dtypes, shapes))

    def _arriving(
        self, names: Sequence[str], dtypes: Sequence[str], shapes: Sequence[Sequence[int]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        for name, dtype, shape in zip(names, dtypes, shapes, strict=True):
            weight = torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=self.senders_device)
            self.senders.broadcast(weight, 0).wait()
            yield name, weight

    def _load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """As vLLM's reload, which only logs what is missing: the model would be a mixture.

        A head is always sent, and left out where the server's is tied.
        """
        model: Any = self.model_runner.get_model()
        tied = self.model_runner.model_config.hf_config.get_text_config().tie_word_embeddings
        if tied and self.device.type == "cpu":
            raise ValueError("on a CPU vLLM keeps a copy of a tied head that no reload reaches")
        sent = (pair for pair in weights if not (tied and pair[0].endswith("lm_head.weight")))
        load, seen = model.load_weights, set[str]()

        def load_and_note(iterator: Any) -> Any:
            done = load(iterator)
            seen.update(done or ())
            return done

        expected = {name.replace(".base_layer.", ".") for name, _ in model.named_parameters()}
        model.load_weights = load_and_note
        try:
            self.reload_weights(weights_iterator=sent)  # type: ignore[attr-defined]
        finally:
            del model.load_weights
        if missing := sorted(expected - seen):
            raise ValueError(f"{len(missing)} tensors were not sent, the first {missing[0]}")


def _read_folder(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  not a mapping
                yield name, tensors.get_tensor(name)


class KeyCheck:
    """ASGI middleware that asks for the key on every path but /health.

    vLLM's own `--api-key` leaves the development endpoints open, which can replace weights.
    """

    def __init__(self, app: Any) -> None:
        self.app, self.key = app, os.environ["OPENVLT_SERVER_KEY"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            sent = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            if not secrets.compare_digest(sent.encode(), f"Bearer {self.key}".encode()):
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b'{"error": "wrong or missing key"}'})
                return
        await self.app(scope, receive, send)
