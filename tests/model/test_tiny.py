"""The embedded model: its tokenizer encodes any text, its folder is a plain Hugging Face checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openvlt.errors import UserError
from openvlt.model.processor import ImageOnlyProcessor, load_processor
from openvlt.model.tiny import TinyConfig, TinyModel, make_vlm
from openvlt.model.weights import load_weights
from openvlt.rollout.base import Sampling
from openvlt.rollout.prefix import PrefixGenerator

TEXTS = (
    "What is 2 + 3?",
    "  two  spaces\n\n\ttab\r\n",
    "naïve Ærøskøbing ß 数学 ∑∫√π ≠ ½ 👩‍👩‍👧 \u2028 \x85 \x00",
    "العربية हिन्दी \ue000 \U0010fffd",
    "\\frac{1}{2} $x^2$ <think>a</think><answer>5</answer>",
)


@pytest.fixture(scope="module")
def folder(vlm, tmp_path_factory) -> Path:
    """The tiny VLM, saved."""
    path = tmp_path_factory.mktemp("saved")
    vlm.save(path)
    return path


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokenizer_writes_any_text(vlm, text):
    ids = vlm.tokenizer(text, add_special_tokens=False).input_ids
    assert vlm.tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    assert vlm.tokenizer.decode(ids, skip_special_tokens=True) == unicodedata.normalize("NFC", text)


def test_every_assigned_character_of_the_basic_plane_survives(vlm):
    whole = "".join(chr(code) for code in range(0x20, 0xD800) if unicodedata.category(chr(code)) != "Cn")
    whole = unicodedata.normalize("NFC", whole)
    assert vlm.tokenizer.decode(vlm.tokenizer(whole, add_special_tokens=False).input_ids) == whole


def test_marks_are_single_tokens_and_images_take_a_quarter_of_their_patches(vlm, mixed, render):
    for mark in ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<think>", "</answer>"):
        assert len(vlm.tokenizer(mark, add_special_tokens=False).input_ids) == 1
    prompts = render(mixed)
    grid = prompts.vision["image_grid_thw"]
    assert prompts.images_P.tolist() == [1, 0, 2, 1]
    image = vlm.core.config.image_token_id
    marks = (prompts.ids_PL == image).sum(1)
    tokens = [int(part.prod(-1).sum()) // 4 for part in grid.split(prompts.images_P.tolist())]
    assert marks.tolist() == tokens and tokens[1] == 0
    assert torch.equal(prompts.token_type_PL.bool(), prompts.ids_PL == image)
    assert prompts.vision["pixel_values"].shape == (int(grid.prod(-1).sum()), 3 * 2 * 14 * 14)
    area = grid.prod(-1) * 14 * 14
    assert (area >= 56 * 56).all() and (area <= 112 * 112).all()
    padding = prompts.mask_PL == 0
    assert padding.any() and (padding.long().diff(dim=1) <= 0).all()  # on the left only


def test_making_it_twice_gives_the_same_weights_and_leaves_the_random_state(problems):
    sizes, corpus = TinyConfig(hidden=32, layers=1, heads=1, vision_layers=1), ["one two three"] * 5
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, other, third = (make_vlm(corpus, sizes, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    weights = [each.model.state_dict() for each in (one, other, third)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not torch.equal(weights[0]["lm_head.weight"], weights[2]["lm_head.weight"])


def test_the_base_is_made_once_and_found_again(tmp_path, capsys):
    made = []

    def corpus() -> list[str]:
        made.append(1)
        return ["red green blue"] * 4

    sizes = TinyConfig(hidden=32, layers=1, heads=1, vision_layers=1)
    tiny = TinyModel(sizes=sizes, cache=str(tmp_path), corpus=corpus)
    base = tiny.base_path()
    stamp = (Path(base) / "model.safetensors").stat().st_mtime_ns
    assert tiny.base_path() == base and (Path(base) / "model.safetensors").stat().st_mtime_ns == stamp
    other = TinyModel(sizes=sizes, cache=str(tmp_path), corpus=corpus, seed=1).base_path()
    assert other != base and len(list(tmp_path.iterdir())) == 2  # nothing half-made is left behind


def test_saving_and_loading_keeps_every_bit(folder, vlm, mixed, render):
    weights = load_weights(str(folder), dtype="float32", attn_implementation="sdpa").state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in vlm.model.state_dict().items())
    processor = load_processor(folder)
    assert isinstance(processor, ImageOnlyProcessor) and processor.tokenizer.padding_side == "left"
    from openvlt.data.prompts import PromptStyle, Renderer

    one, other = render(mixed), Renderer(processor, PromptStyle()).prompts(mixed)
    assert torch.equal(one.ids_PL, other.ids_PL)
    assert all(torch.equal(value, other.vision[name]) for name, value in one.vision.items())


def test_the_folder_names_no_class_of_ours(folder):
    texts = {file.name: file.read_text() for file in folder.iterdir() if file.suffix in (".json", ".jinja")}
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= texts.keys()
    assert not [name for name, text in texts.items() if "ImageOnlyProcessor" in text or "openvlt" in text]
    assert json.loads(texts["config.json"])["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]


PLAIN = """
import json, sys
sys.modules["openvlt"] = None  # an import of ours would raise
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

folder, image, banned = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder)
tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
pixels = processor(images=[Image.open(image)], return_tensors="pt")
parts = [{"type": "image"}, {"type": "text", "text": "What is red?"}]
text = tokenizer.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False)
marks = int(pixels["image_grid_thw"].prod()) // 4
inputs = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * marks), return_tensors="pt")
types = (inputs["input_ids"] == model.config.image_token_id).long()
out = model.generate(**inputs, **pixels, mm_token_type_ids=types, do_sample=False, max_new_tokens=12, suppress_tokens=banned)
print(json.dumps(out[0, inputs["input_ids"].shape[1]:].tolist()))
"""


def test_plain_transformers_loads_it_and_generates_the_same(folder, vlm, mixed, render, tmp_path):
    """In a process that cannot import openvlt: stock classes only, greedy tokens equal to our own generator's."""
    mixed[0].images[0].save(tmp_path / "image.png")
    banned = json.dumps(vlm.banned_V().nonzero()[:, 0].tolist())
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "HF_HUB_OFFLINE": "1"
    }
    command = [sys.executable, "-c", PLAIN, str(folder), str(tmp_path / "image.png"), banned]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    sampling = Sampling(max_new_tokens=12, greedy=True)
    ours = PrefixGenerator().generate(vlm, mixed[:1], render(mixed[:1]), sampling, 0)[0]
    assert json.loads(done.stdout.splitlines()[-1]) == list(ours.token_ids)


@pytest.mark.parametrize(
    ("removed", "words"),
    [
        (("preprocessor_config.json", "processor_config.json"), "no usable processor"),
        (("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"), "no usable processor"),
        (("config.json",), "no usable processor"),
        (("chat_template.jinja",), "no chat template"),
    ],
)
def test_a_folder_without_its_processor_is_one_clear_sentence(folder, tmp_path, removed, words):
    broken = tmp_path / "model"
    shutil.copytree(folder, broken)
    for name in removed:
        (broken / name).unlink(missing_ok=True)
    with pytest.raises(UserError, match=words) as error:
        load_processor(broken)
    assert str(broken) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_folder_is_one_clear_sentence(tmp_path):
    with pytest.raises(UserError, match="nowhere: can't be fetched.*or give a folder"):
        load_processor(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="config.json"):
        load_weights(str(tmp_path / "empty"), dtype="float32", attn_implementation="sdpa")
    with pytest.raises(UserError, match="no torch dtype"):
        load_weights(str(tmp_path / "empty"), dtype="flaot32", attn_implementation="sdpa")


def test_pixel_bounds_are_areas(folder):
    def size(**bounds: int) -> tuple[int, int]:
        found = load_processor(folder, **bounds).image_processor.size
        return found["shortest_edge"], found["longest_edge"]

    assert size() == (56 * 56, 112 * 112)
    assert size(max_pixels=80 * 80) == (56 * 56, 80 * 80)
    assert size(min_pixels=10) == (10, 112 * 112)
    assert size(max_pixels=40 * 40) == (40 * 40, 40 * 40)  # below the folder's own lower bound
    with pytest.raises(UserError, match="min_pixels=9000 is more than max_pixels=5000"):
        size(min_pixels=9000, max_pixels=5000)


@pytest.mark.slow
def test_the_base_is_found_again_by_another_process(tmp_path: Path) -> None:
    """Its key must not depend on where functions lie in memory."""
    script = (
        "from hydra import compose, initialize_config_dir\nfrom openvlt.config.build import build\nfrom openvlt.config.resolvers import CONF\n"
        "with initialize_config_dir(str(CONF), version_base='1.3'):\n"
        f"    model = build(compose('train', ['name=x', 'data.lesson_amount=40', 'paths.cache={tmp_path}']).model, 'model')\n"
        "print(model._key(list(model.corpus()), list(model.lessons(seed=model.seed))))"
    )
    run = [sys.executable, "-c", script]
    keys = {
        subprocess.run(
            run, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
        ).stdout.split()[-1]
        for _ in range(2)
    }
    assert len(keys) == 1


STOCK = """
import sys
sys.modules["openvlt"] = None  # an import of ours would raise
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, images = sys.argv[1], sys.argv[2:]
processor, model = AutoProcessor.from_pretrained(folder), AutoModelForImageTextToText.from_pretrained(folder)
parts = [{"type": "image"} for _ in images] + [{"type": "text", "text": "What is red?"}]
text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
inputs = processor(text=[text], images=[Image.open(image) for image in images], return_tensors="pt")
torch.save({**inputs, "logits": model(**inputs).logits, "class": type(processor).__name__}, folder + "/stock.pt")
"""


def test_the_stock_processor_finds_its_video_half(folder):
    """Without it AutoProcessor and vLLM refuse the folder."""
    settings = json.loads((folder / "processor_config.json").read_text())
    images, frames = settings["image_processor"], settings["video_processor"]
    assert settings["processor_class"] == "Qwen2_5_VLProcessor"
    assert frames["video_processor_type"] == "Qwen2VLVideoProcessor"
    assert {name: value for name, value in frames.items() if name in images} == {
        name: value for name, value in images.items() if name != "image_processor_type"
    }


def test_stock_auto_classes_give_the_same_ids_pixels_and_logits(folder, vlm, mixed, render, tmp_path):
    pytest.importorskip("torchvision", reason="transformers' own processor needs it")
    problem = replace(mixed[0], question="What is red?")
    problem.images[0].save(tmp_path / "image.png")
    command = [sys.executable, "-c", STOCK, str(folder), str(tmp_path / "image.png")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found, ours = torch.load(folder / "stock.pt"), render([problem])
    assert found["class"] == "Qwen2_5_VLProcessor" and torch.equal(found["input_ids"], ours.ids_PL)
    assert torch.allclose(found["pixel_values"], ours.vision["pixel_values"], atol=1e-5)
    inputs = {"attention_mask": ours.mask_PL, "mm_token_type_ids": ours.token_type_PL, **ours.vision}
    with torch.no_grad():
        logits = vlm.core.eval()(input_ids=ours.ids_PL, **inputs).logits
    assert torch.allclose(found["logits"], logits, atol=1e-4)
