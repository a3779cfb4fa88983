"""Starts vLLM servers as rollout=vllm needs them: `python -m openvlt.serving <model folder>`."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from openvlt.errors import UserError
from openvlt.serving.vllm.client import VLLMServer
from openvlt.serving.vllm.process import ServerOptions, ServerProcess, start_servers


def main(arguments: Sequence[str]) -> int:
    """Runs servers until Ctrl-C or until one ends; returns the exit status."""
    options = _parse(arguments)
    settings = ServerOptions(
        python=options.python,
        dtype=options.dtype,
        max_model_len=options.max_model_len,
        max_num_seqs=options.max_num_seqs,
        memory=options.memory,
        lora_rank=options.lora_rank,
        sleep=options.sleep,
        arguments=tuple(options.rest),
    )
    gpus = options.gpus
    ports = range(options.port, options.port + len(gpus))
    started: list[tuple[str, ServerProcess]] = []
    try:
        _check_model(options.model)
        started = start_servers(options.model, settings, gpus, ports=ports, host=options.host)
        for url, process in started:
            VLLMServer(url).wait(options.wait_s, process)
        urls = ",".join(url.replace("127.0.0.1", options.host) for url, _ in started)
        print(f"ready: rollout=vllm 'rollout.urls=[{urls}]'", flush=True)
        while all(process.is_running() for _, process in started):
            time.sleep(0.5)
        ended = next(process for _, process in started if not process.is_running())
        print(f"error: a server ended: {ended.last_words()}", file=sys.stderr)
        return 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        for _, process in started:
            process.stop()


def _check_model(model: str) -> None:
    """Raises UserError for a folder that isn't there."""
    if not Path(model).is_dir() and (model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise UserError(f"{model}: there is no such folder; give a Hugging Face model folder or a hub id")


def _read_gpus(text: str) -> list[int | None]:
    """The numbers in `0,1,2`; for `none` a CPU. argparse shows what it raises."""
    if not re.fullmatch(r"none|\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: give the numbers of GPUs, as 0,1,2, or none for a CPU")
    return [None] if text == "none" else [int(gpu) for gpu in text.split(",")]


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m openvlt.serving", description=__doc__)
    parser.add_argument("model", help="a Hugging Face folder or hub id")
    parser.add_argument("--gpus", default="0", type=_read_gpus, help="one server on each: 0,1,2; none: CPU")
    parser.add_argument("--port", type=int, default=8000, help="of the first server; the others follow")
    parser.add_argument("--host", default="127.0.0.1", help="another needs a key in OPENVLT_SERVER_KEY")
    parser.add_argument("--python", help="of the environment with vLLM (default: this one)")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--memory", type=float, default=0.9, help="share of a GPU's that a server may fill")
    parser.add_argument(
        "--lora-rank", type=int, default=0, help="the largest of adapters, for rollout.weights=adapter"
    )
    parser.add_argument("--sleep", action="store_true", help="for rollout.sleep=true")
    parser.add_argument("--wait-s", type=float, default=600.0)
    parser.add_argument("rest", nargs="*", help="after --, more options of vLLM's")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
