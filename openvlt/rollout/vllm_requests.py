"""Requests to a vLLM server for prompts of ours, and completions of its answers, each checked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from openvlt.data.images import data_url, open_images
from openvlt.errors import UserError
from openvlt.model.families import find_family
from openvlt.model.load import VLM
from openvlt.rollout.base import GenerationRequest, Sampling
from openvlt.rollout.stopping import StopConditions
from openvlt.rollout.vllm_servers import last_words
from openvlt.serving.vllm.client import PendingAnswers
from openvlt.types import Completion, Problem, Prompts

FINAL_ONLY = 2  # vLLM's RequestOutputKind: one answer, not a stream


def make_requests(
    vlm: VLM, problems: Sequence[Problem], prompts: Prompts, sampling: Sampling, seed: int
) -> list[dict[str, Any]]:
    """Bodies of `/inference/v1/generate`, one a problem: token ids with one mark an image, and images.

    A sample's seed depends on `seed`, the problem's id and its number there, as with the other generators;
    the draws are other ones.
    """
    shared = _sampling_parameters(vlm, sampling)
    pictures = iter(_pictures(vlm, problems, prompts))
    tokens = iter(_tokens_of_images(vlm, prompts))
    requests = []
    for row, problem in enumerate(problems):
        images = int(prompts.images_P[row])
        ids = _fold_marks(vlm, prompt_ids(prompts, row), [next(tokens) for _ in range(images)], problem.id)
        key = hashlib.blake2b(f"{seed}|{problem.id}".encode(), digest_size=6).digest()
        request: dict[str, Any] = {
            "token_ids": ids,
            "sampling_params": {**shared, "seed": int.from_bytes(key, "big")},
            "return_token_ids": True,
        }
        if images:
            parts = [{"type": "image_url", "url": data_url(next(pictures))} for _ in range(images)]
            request["content_parts"] = parts
        requests.append(request)
    return requests


def prompt_ids(prompts: Prompts, row: int) -> list[int]:
    """A prompt's tokens, without padding."""
    return prompts.ids_PL[row][prompts.mask_PL[row].bool()].tolist()


def prompt_rows(prompts: Prompts) -> list[list[int]]:
    """The tokens of every prompt, without padding."""
    return [prompt_ids(prompts, row) for row in range(len(prompts))]


def _sampling_parameters(vlm: VLM, sampling: Sampling) -> dict[str, Any]:
    """vLLM's SamplingParams for a sampling of ours."""
    banned = vlm.banned_V().nonzero()[:, 0].tolist()
    return {
        "n": sampling.n,
        "max_tokens": sampling.max_new_tokens,
        "temperature": 0.0 if sampling.greedy else sampling.temperature,
        "top_p": 1.0 if sampling.greedy else sampling.top_p,
        "top_k": 0 if sampling.greedy else sampling.top_k,
        "logit_bias": {str(token): -100.0 for token in banned},
        "stop": list(sampling.stop),
        "stop_token_ids": list(vlm.stop_ids),
        "ignore_eos": True,  # of the server's own folder; ours are above
        "skip_special_tokens": True,
        "logprobs": 0,
        "output_kind": FINAL_ONLY,
    }


def _tokens_of_images(vlm: VLM, prompts: Prompts) -> list[int | None]:
    """How many tokens each image takes, in reading order; None where the model's processor doesn't say."""
    grid = prompts.vision.get("image_grid_thw")
    if grid is None:
        return [None] * int(prompts.images_P.sum())
    return (grid.prod(-1) // vlm.core.config.vision_config.spatial_merge_size**2).tolist()


def _fold_marks(vlm: VLM, ids: Sequence[int], tokens: Sequence[int | None], name: str) -> list[int]:
    """The ids with one mark for each image, which the server expands again."""
    mark, rest, short, place = vlm.core.config.image_token_id, list(tokens), [], 0
    frame = [vlm.tokenizer.convert_tokens_to_ids(token) for token in find_family(vlm.core.config).image_frame]
    while place < len(ids):
        if ids[place] != (frame[0] if frame else mark):
            short.append(ids[place])
            place += 1
            continue
        short.append(mark)
        size = rest.pop(0) if rest else 1
        if size is None:
            size = _frame_length(ids, place, frame) if frame else _run_length(ids, place)
        place += size
    if rest or short.count(mark) != len(tokens):
        raise UserError(
            f"row {name!r}: its prompt shows other images than it has, which rollout=vllm can't send; use "
            "rollout=prefix"
        )
    return short


def _run_length(ids: Sequence[int], place: int) -> int:
    """How many times the token at `place` comes without another between."""
    return next((n for n, token in enumerate(ids[place:]) if token != ids[place]), len(ids) - place)


def _frame_length(ids: Sequence[int], place: int, frame: Sequence[int]) -> int:
    """How many tokens belong to the image whose frame begins at `place`; 1 where none ends it."""
    _, last, end = frame
    try:
        return ids.index(end, ids.index(last, place)) + 1 - place
    except ValueError:
        return 1


def _pictures(vlm: VLM, problems: Sequence[Problem], prompts: Prompts) -> list[Image.Image]:
    """The images as the model sees them, so that no server resizes them; else as the problems hold them."""
    settings = vlm.processor.image_processor
    if "image_grid_thw" not in prompts.vision or not hasattr(settings, "merge_size"):
        return [image.convert("RGB") for problem in problems for image in open_images(problem)]
    patch, merge = settings.patch_size, settings.merge_size
    mean, std = (torch.tensor(value)[:, None, None] for value in (settings.image_mean, settings.image_std))
    grid = prompts.vision["image_grid_thw"].cpu()
    images = []
    for patches, (_, rows, columns) in zip(
        prompts.vision["pixel_values"].float().cpu().split(grid.prod(-1).tolist()), grid.tolist(), strict=True
    ):
        cut = patches.view(
            -1, rows // merge, columns // merge, merge, merge, 3, settings.temporal_patch_size, patch, patch
        )
        plane = (
            cut[0, :, :, :, :, :, 0].permute(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * patch, columns * patch)
        )
        pixels = ((plane * std + mean) * 255).round().clamp(0, 255).byte()
        images.append(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
    return images


def read_completions(
    vlm: VLM,
    problems: Sequence[Problem],
    ids: Sequence[Sequence[int]],
    answers: Sequence[Mapping[str, Any]],
    sampling: Sampling,
    version: str,
) -> list[Completion]:
    """The completions of all problems, of which `ids` are the prompts, problem by problem.

    Log-probabilities are passed on where top_p and top_k cut nothing off: those of vLLM are of what is left.
    Raises UserError for an answer that isn't one to its prompt or to this version of the weights.
    """
    banned_V, stops = vlm.banned_V().cpu(), StopConditions(vlm, sampling.stop)
    keep_logp = sampling.greedy or (sampling.top_p == 1 and sampling.top_k == 0)
    completions = []
    for problem, own, answer in zip(problems, ids, answers, strict=True):
        for choice in _sorted_choices(problem, own, answer, sampling.n):
            _check_version(choice, version)
            tokens = [int(token) for token in choice["token_ids"]]
            logp = [float(entry["logprob"]) for entry in (choice["logprobs"] or {}).get("content") or []]
            finished = _check_end(problem.id, choice, tokens, sampling, stops)
            _check_tokens(problem.id, tokens, logp, banned_V)
            text = vlm.tokenizer.decode(tokens, skip_special_tokens=True)
            completions.append(Completion(tuple(tokens), text, finished, tuple(logp) if keep_logp else ()))
    return completions


def _sorted_choices(
    problem: Problem, ids: Sequence[int], answer: Mapping[str, Any], amount: int
) -> list[Mapping[str, Any]]:
    """An answer's completions by sample. Raises UserError for another prompt or another number of them."""
    theirs = answer.get("prompt_token_ids") or []
    if list(theirs) != list(ids):
        raise UserError(
            f"row {problem.id!r}: the server reads another prompt ({len(theirs)} tokens, ours {len(ids)}): "
            "its processor or its image sizes differ from the model's; start it with the model's own folder"
        )
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    if len(choices) != amount:
        raise UserError(
            f"row {problem.id!r}: the server gave {len(choices)} completions, asked were {amount}"
        )
    return choices


def _check_version(choice: Mapping[str, Any], version: str) -> None:
    found = {span["version"] for span in choice["weight_versions"]}
    if found != {version}:
        raise UserError(
            f"the server answered with weights {', '.join(sorted(map(repr, found)))}, not {version!r}: "
            "another run uses this server, or it was started again; give each run a server of its own"
        )


def _check_end(
    name: str, choice: Mapping[str, Any], tokens: Sequence[int], sampling: Sampling, stops: StopConditions
) -> bool:
    """Whether the completion is finished. Raises UserError where the server ended it for another reason."""
    if choice["finish_reason"] == "length" and len(tokens) < sampling.max_new_tokens:
        raise UserError(
            f"row {name!r}: cut after {len(tokens)} of {sampling.max_new_tokens} tokens, at the server's "
            "max_model_len; start the server with a larger one"
        )
    finished = bool(tokens) and stops.is_finished(tokens)
    if choice["finish_reason"] not in ("stop", "length") or (
        choice["finish_reason"] == "stop" and not finished
    ):
        raise UserError(
            f"row {name!r}: the server ended it by {choice['finish_reason']!r}, but no stop token or string "
            "is at its end: its tokenizer differs from the model's; start it with the model's own folder"
        )
    if stops.is_passed_over(tokens):
        raise UserError(
            f"row {name!r}: the server went on after a stop token or string; its generation settings or its "
            "tokenizer differ from the model's; start it with the model's own folder"
        )
    return finished


def _check_tokens(name: str, tokens: Sequence[int], logp: Sequence[float], banned_V: torch.Tensor) -> None:
    if any(token >= len(banned_V) or banned_V[token] for token in tokens):
        raise UserError(
            f"row {name!r}: the server generated a token that is banned; use rollout=prefix, and report it"
        )
    if len(logp) != len(tokens) or not all(map(math.isfinite, logp)):
        raise UserError(
            f"row {name!r}: {len(logp)} log-probabilities for {len(tokens)} tokens, or some that aren't "
            "finite; the model's outputs may not be numbers"
        )


@dataclass(frozen=True)
class PendingRequests:
    """Completions that a server generates ahead, with the weights of `version`."""

    vlm: VLM
    requests: tuple[GenerationRequest, ...]
    version: str
    answers: PendingAnswers
    url: str
    state: dict[str, Any] = field(repr=False)  # the generator's

    @property
    def seconds(self) -> float:
        return self.answers.seconds

    def wait(self) -> list[list[Completion]]:
        try:
            with last_words(self.url):
                answers = iter(self.answers.wait())
        finally:
            self.state["pending"] = None
        return [self._read(request, [next(answers) for _ in request.problems]) for request in self.requests]

    def _read(self, request: GenerationRequest, answers: list[dict[str, Any]]) -> list[Completion]:
        ids = prompt_rows(request.prompts)
        return read_completions(self.vlm, request.problems, ids, answers, request.sampling, self.version)

    def cancel(self) -> None:
        self.answers.cancel()
        self.state["pending"] = None
