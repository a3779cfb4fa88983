"""rollout=vllm with every family of models: the same greedy tokens from a real server on the CPU, or one sentence before a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transformers import AutoConfig

from openvlt.data.prompts import PromptStyle, Renderer
from openvlt.errors import UserError
from openvlt.model.export import write_untied_model
from openvlt.model.families import FAMILIES
from openvlt.model.load import VLM
from openvlt.rollout.base import Sampling
from openvlt.rollout.distributed import generate_on_ranks
from openvlt.rollout.hf import HFGenerator
from openvlt.rollout.vllm import VLLMGenerator
from openvlt.rollout.vllm_requests import make_requests
from openvlt.types import Problem
from tests.conftest import picture
from tests.helpers.tiny_families import SIDE, make_tiny
from tests.helpers.vllm_server import serve_folder, stir

REFUSED = tuple(name for name, family in FAMILIES.items() if family.vllm_refusal)
TILED = ("idefics3", "smolvlm")  # every image is enlarged first, by torchvision there and Pillow here
# test_vllm.py has Qwen2.5-VL; Qwen2-VL is handled as it is, and SmolVLM as Idefics3: both were compared by hand
SERVED = sorted(set(FAMILIES) - set(REFUSED) - {"qwen2_5_vl", "qwen2_vl", "smolvlm"})


@pytest.fixture(scope="module", params=SERVED)
def served(request, tmp_path_factory) -> Iterator[tuple[VLM, str]]:
    """A tiny model of each family, and a server that was started from the folder that a run writes."""
    vlm = make_tiny(request.param)
    vlm.model.float()
    folder = tmp_path_factory.mktemp("family") / "model"
    folder.mkdir()
    write_untied_model(vlm, folder)
    for url, _ in serve_folder(folder):
        yield vlm, url


@pytest.mark.vllm
@pytest.mark.slow
def test_greedy_tokens_are_transformers_own_whatever_the_weights(served):
    """The prompts' tokens are compared with the server's in every answer."""
    vlm, url = served
    name = vlm.core.config.model_type
    pictures = [picture(SIDE, SIDE, seed) for seed in (1, 2, 3)]
    mixed = [
        Problem("one", "What is red?", "1", (pictures[0],)),
        Problem("none", "What is 2 + 3, and why is it not 6, if it is not?", "5"),
        # LLaVA-OneVision's images touch: the next test
        Problem("two", "Same, or not?", "no", tuple(pictures[1 : 2 if name == "llava_onevision" else 3])),
    ]
    render, sampling, seen = (
        Renderer(vlm.processor, PromptStyle()).prompts,
        Sampling(max_new_tokens=12, greedy=True),
        [],
    )
    for seed in (None, 1, 2):
        if seed is not None:
            stir(vlm, seed)
        theirs = generate_on_ranks(VLLMGenerator([url]), vlm, mixed, render(mixed), sampling, 5)
        ours = generate_on_ranks(HFGenerator(), vlm, mixed, render(mixed), sampling, 5)
        for one, other in zip(theirs, ours, strict=True):
            assert (one.token_ids, one.finished) == (other.token_ids, other.finished)
            assert one.logp == pytest.approx(other.logp, abs=5e-3 if name in TILED else 1e-4)
        seen.append([one.logp for one in theirs])
    assert seen[0] != seen[1] != seen[2]


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_vllm_cannot_serve_is_refused_before_anything(name):
    with pytest.raises(UserError, match=rf"rollout=vllm can't serve {name}: .*rollout=(hf|prefix)$"):
        VLLMGenerator(start=True).check(AutoConfig.for_model(name))
    with pytest.raises(UserError, match=f"rollout=vllm can't serve {name}"):
        VLLMGenerator(["http://127.0.0.1:9"], wait_s=0.1).sync(make_tiny(name))


@pytest.mark.parametrize("name", ["internvl", "idefics3", "smolvlm", "glm4v", "qwen3_vl"])
def test_the_tokens_of_each_image_are_folded_into_one_mark(name):
    vlm = make_tiny(name)
    images = (picture(SIDE, SIDE, 1), picture(4 * SIDE, SIDE, 2))
    problems = [Problem("p", "Same?", "no", images), Problem("q", "Red?", "no", images[1:])]
    prompts = Renderer(vlm.processor, PromptStyle()).prompts(problems)
    for row, request in enumerate(make_requests(vlm, problems, prompts, Sampling(), 0)):
        text = vlm.tokenizer.decode(request["token_ids"])
        assert request["token_ids"].count(vlm.core.config.image_token_id) == len(problems[row].images)
        inner = ("<img>", "</img>", "<global-img>", "<row_1_col_1>", "<fake_token_around_image>")
        assert not [mark for mark in inner if mark in text] and len(request["content_parts"]) == 2 - row


def test_images_that_touch_are_refused_where_nothing_parts_them():
    vlm, image = make_tiny("llava_onevision"), picture(SIDE, SIDE, 1)
    problem = Problem("p", "Same?", "no", (image, image))
    prompts = Renderer(vlm.processor, PromptStyle()).prompts([problem])
    with pytest.raises(UserError, match="row 'p': its prompt shows other images than it has"):
        make_requests(vlm, [problem], prompts, Sampling(), 0)
