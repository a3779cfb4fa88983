"""A real vLLM server on a CPU, for tests that are marked `vllm`. `make vllm-env` builds its environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from openvlt.model.load import VLM
from openvlt.serving.vllm.client import VLLMServer
from openvlt.serving.vllm.process import ServerOptions, ServerProcess, start_servers

ROOT = Path(__file__).parents[2]
WAIT_S = 600.0  # which only a server that hangs reaches


def vllm_python() -> str:
    """The python of the server's environment; the test is skipped without one."""
    python = Path(os.environ.get("OPENVLT_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
    if not python.is_file():
        pytest.skip(f"no vLLM at {python}; build it with `make vllm-env`, or set OPENVLT_VLLM_PYTHON")
    return str(python)


def options(**changes) -> ServerOptions:
    return ServerOptions(
        python=vllm_python(), dtype="float32", max_model_len=1024, max_num_seqs=64, **changes
    )


def untied(vlm: VLM) -> VLM:
    """The same model with a head of its own."""
    for config in (vlm.core.config, vlm.core.config.text_config):
        config.tie_word_embeddings = False
    vlm.core.lm_head.weight = torch.nn.Parameter(vlm.core.lm_head.weight.detach().flip(1).clone())
    return vlm


def running_server(vlm: VLM, folder: Path, **changes) -> Iterator[tuple[str, ServerProcess]]:
    """Saves the model as a run does, and serves that folder."""
    vlm.save(folder / "model")
    yield from serve_folder(folder / "model", **changes)


def serve_folder(model: Path, **changes) -> Iterator[tuple[str, ServerProcess]]:
    """Serves a model's folder; the log is beside it."""
    ((url, process),) = start_servers(str(model), options(**changes), [None], logs=model.parent / "logs")
    try:
        VLLMServer(url).wait(WAIT_S, process)
        yield url, process
    finally:
        process.stop()


def stir(vlm: VLM, seed: int, parts: str = "") -> None:
    """New weights, as training makes them: every trained one whose name holds `parts` moves by a tenth of its spread."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in vlm.model.named_parameters():
            if parts in name and weight.requires_grad:
                size = 0.05 if "lora_B" in name else 0.1 * weight.std().nan_to_num(0)
                weight.add_(torch.randn_like(weight) * size)
