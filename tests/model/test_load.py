"""Broken, foreign and odd checkpoints are one sentence before anything is asked, or loaded right."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from openvlt.distill.text_model import TextModel
from openvlt.errors import UserError
from openvlt.model.load import VLM, PretrainedModel
from openvlt.model.processor import load_processor
from openvlt.model.weights import find_not_finite
from openvlt.runs.directory import model_of_run

WEIGHTS = "model.safetensors"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(vlm, tmp_path_factory) -> Path:
    """The tiny VLM, saved."""
    path = tmp_path_factory.mktemp("base") / "model"
    vlm.save(path)
    return path


@pytest.fixture
def copied(base, tmp_path) -> Path:
    return shutil.copytree(base, tmp_path / "model")


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    kept = change(load_file(folder / WEIGHTS))
    save_file(
        {name: value.clone().contiguous() for name, value in kept.items()}, folder / WEIGHTS, {"format": "pt"}
    )


def edit(folder: Path, name: str, **changes: Any) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | changes))


def load(folder: Path, **settings: Any) -> VLM:
    return PretrainedModel(str(folder), device="cpu", **settings).load()


def refusal(folder: Path, **settings: Any) -> str:
    """The one sentence."""
    with pytest.raises(UserError) as error:
        load(folder, **settings)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    return str(error.value)


def only(word: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    """A change of the first tensor whose name has this word."""

    def apply(tensors: Tensors) -> Tensors:
        name = next(name for name in tensors if word in name)
        return {**tensors, name: change(tensors[name])}

    return apply


def holding(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """One number of a tensor replaced."""
    return lambda tensor: tensor.flatten().index_fill(0, torch.tensor([1]), value).view_as(tensor)


NAMES: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "two layers' tensors": (
        lambda t: {k: v for k, v in t.items() if not ("layers.0." in k and "q_proj" in k)},
        r"2 of 57 tensors are not in the checkpoint, which would be random \(.*q_proj.bias, .*a file of weights",
    ),
    "one tensor": (
        lambda t: {k: v for k, v in t.items() if k != "model.norm.weight"},
        r"1 of 57 tensors .*language_model.norm.weight",
    ),
    "the vision tower": (
        lambda t: {k: v for k, v in t.items() if not k.startswith("visual")},
        r"\d\d of 57 tensors .*model.visual",
    ),
    "module.": (
        lambda t: {f"module.{k}": v for k, v in t.items()},
        r'57 of 57 .*all 56 names that fit nowhere begin with "module\."',
    ),
    "compiled": (
        lambda t: {f"_orig_mod.{k}": v for k, v in t.items()},
        r'begin with "_orig_mod\."',
    ),
    "DeepSpeed": (
        lambda t: {f"_forward_module.module.{k}": v for k, v in t.items()},
        r'begin with "_forward_module\.module\."',
    ),
    "PEFT": (
        lambda t: {f"base_model.model.{k}": v for k, v in t.items()},
        r'begin with "base_model\.model\."',
    ),
    "FSDP inside": (
        lambda t: {k.replace("layers.", "_fsdp_wrapped_module.layers."): v for k, v in t.items()},
        r'begin with "model\.language_model\._fsdp_wrapped_module',
    ),
    "the language model alone": (
        lambda t: {k.removeprefix("model."): v for k, v in t.items() if k.startswith("model.")},
        r"57 of 57|lack the beginning",
    ),
    "other names": (
        lambda t: {k.replace("mlp", "feed_forward"): v for k, v in t.items()},
        r"fit nowhere .*feed_forward.*another version of transformers",
    ),
    "a shape": (
        only("q_proj.weight", lambda v: v[:-1]),
        r"1 tensor of another shape .*q_proj.weight \(63, 64\), expected \(64, 64\)",
    ),
    "a smaller vocabulary": (only("embed_tokens", lambda v: v[:-40]), r"embed_tokens.weight \(\d+, 64\), expected"),
    "one layer more": (
        lambda t: t | {k.replace("layers.1.", "layers.2."): v for k, v in t.items() if "layers.1." in k},
        r"tensors of the checkpoint have no place in the model \(.*layers.2.*config.json describes another",
    ),
    "a bias": (
        lambda t: t | {"model.layers.0.self_attn.o_proj.bias": torch.ones(64)},
        r"1 tensors .*o_proj.bias.*config.json describes another",
    ),
    "an unmerged adapter": (
        lambda t: t | {"model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.ones(4, 64)},
        r"lora_A.*an adapter's, merge it first",
    ),
    "a NaN": (only("input_layernorm", holding(float("nan"))), r"1 tensor holds NaN.*outputs are not numbers"),
    "an infinity": (only("visual", holding(float("inf"))), r"infinite numbers \(model.visual"),
    "minus infinity": (only("embed_tokens", holding(-float("inf"))), r"infinite"),
    "NaN alone": (lambda t: {k: v * float("nan") for k, v in t.items()}, r"56 tensors hold NaN.*broken"),
}  # fmt: skip


@pytest.mark.parametrize("what", NAMES)
def test_weights_that_are_not_the_model_are_refused(copied, capsys, what):
    change, words = NAMES[what]
    rewrite(copied, change)
    message = refusal(copied)
    assert re.search(words, message), message
    assert "LOAD REPORT" not in capsys.readouterr().err  # the sentence says it


def test_tied_heads_are_not_missing_and_foreign_parts_are_told(copied, vlm, capsys):
    assert "lm_head.weight" not in load_file(copied / WEIGHTS)
    expected = vlm.model.state_dict()
    loaded = load(copied).model.state_dict()
    assert capsys.readouterr().out == ""
    assert all(torch.equal(value, loaded[name]) for name, value in expected.items())
    rewrite(copied, lambda t: t | {"v_head.summary.weight": torch.ones(1, 64)})
    loaded = load(copied).model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in expected.items())
    assert "holds 1 tensors of a part that the model doesn't have (v_head.summary" in capsys.readouterr().out


def test_a_head_beside_its_embedding_is_used_and_declared_when_saved(copied, tmp_path):
    """config.json says tied, and the file holds another head: what is saved must be read so by all."""
    rewrite(copied, lambda t: t | {"lm_head.weight": 2 * t["model.embed_tokens.weight"]})
    vlm, again = load(copied), tmp_path / "again"
    vlm.save(again)
    assert json.loads((again / "config.json").read_text())["tie_word_embeddings"] is False
    one, other = (each.core.get_output_embeddings().weight for each in (vlm, load(again)))
    assert torch.equal(one, other) and torch.equal(one, 2 * vlm.core.get_input_embeddings().weight)


def test_an_untied_config_without_a_head_is_told(copied):
    config = json.loads((copied / "config.json").read_text())
    edit(copied, "config.json", tie_word_embeddings=False, text_config=config["text_config"] | {"tie_word_embeddings": False})  # fmt: skip
    assert "1 of 57 tensors" in (message := refusal(copied)) and "set tie_word_embeddings to true" in message


def cut(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])


def point(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4000000\n"
        )


def to_bin(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def shard(folder: Path, *missing: str) -> None:
    """Two files of weights and their index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    parts = {name: names[index % 2] for index, name in enumerate(tensors)}
    for name in set(names) - set(missing):
        save_file({k: v for k, v in tensors.items() if parts[k] == name}, folder / name, {"format": "pt"})
    index = {"metadata": {}, "weight_map": parts}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half the weights": (lambda f: cut(f, WEIGHTS), r"model.safetensors \([\d,]+ bytes\) is cut off or damaged"),
    "empty weights": (lambda f: (f / WEIGHTS).write_bytes(b""), "cut off or damaged"),
    "a page of HTML as weights": (lambda f: (f / WEIGHTS).write_text("<html>" * 99), "cut off or damaged"),
    "half a .bin": (lambda f: (to_bin(f), cut(f, "pytorch_model.bin")), "pytorch_model.bin .* is cut off"),
    "weights as a pointer": (lambda f: point(f, WEIGHTS), "model.safetensors is a pointer of Git LFS.*git lfs pull"),
    "tokenizer as a pointer": (lambda f: point(f, "tokenizer.json"), "tokenizer.json is a pointer of Git LFS"),
    "config as a pointer": (lambda f: point(f, "config.json"), "config.json is a pointer of Git LFS"),
    "all as pointers": (
        lambda f: point(f, WEIGHTS, "tokenizer.json", "config.json", "processor_config.json"),
        "and 1 more are pointers of Git LFS",
    ),
    "half the tokenizer": (lambda f: cut(f, "tokenizer.json"), "tokenizer.json is no valid JSON.*cut off"),
    "half the config": (lambda f: cut(f, "config.json"), "config.json is no valid JSON"),
    "half the processor": (lambda f: cut(f, "processor_config.json"), "processor_config.json is no valid JSON"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "no weights there"),
    "weights under another name": (
        lambda f: (f / WEIGHTS).rename(f / "weights.safetensors"), "only weights.safetensors, and no index"),
    "a missing shard": (
        lambda f: shard(f, "model-00002-of-00002.safetensors"),
        r"1 of 2 files of weights that model.safetensors.index.json names are missing \(model-00002",
    ),
    "shards without index": (
        lambda f: (shard(f), (f / "model.safetensors.index.json").unlink()), "no weights there.*no index"),
    "a cut shard": (lambda f: (shard(f), cut(f, "model-00001-of-00002.safetensors")), "model-00001.* cut off"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json there"),
    "an empty folder": (lambda f: [file.unlink() for file in f.iterdir()], r"no config.json there \(nothing\)"),
    "no tokenizer": (
        lambda f: [(f / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")], "no usable processor"),
    "no image settings": (lambda f: (f / "processor_config.json").unlink(), "no usable processor"),
    "no template": (lambda f: (f / "chat_template.jinja").unlink(), "no chat template"),
    "a text-only model": (
        lambda f: edit(f, "config.json", **{"model_type": "qwen2"}), "'qwen2' model, which takes no images"),
    "an unknown model": (lambda f: edit(f, "config.json", model_type="nosuch"), "config.json can't be read"),
    "no model type": (lambda f: (f / "config.json").write_text("{}"), "config.json can't be read"),
    "a config that can't be": (
        lambda f: edit(f, "config.json", text_config={"hidden_size": "wide"}), "can't be"),
    "two templates": (
        lambda f: (f / "chat_template.json").write_text('{"chat_template": "other"}'),
        "chat_template.json and chat_template.jinja hold different",
    ),
    "an empty chat_template.json": (
        lambda f: (f / "chat_template.json").write_text("{}"), 'chat_template.json has no "chat_template"'),
    "another image token": (lambda f: edit(f, "config.json", image_token_id=3), "images are token .* and 3 to the"),
    "an adapter beside the model": (
        lambda f: (f / "adapter_config.json").write_text("{}"), "holds a whole model and an adapter"),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_broken_folders_are_one_sentence(copied, what):
    change, words = FILES[what]
    change(copied)
    message = refusal(copied)
    assert re.search(words, message), message


def test_a_file_in_place_of_a_folder_is_told(copied):
    assert "give the folder that it lies in" in refusal(copied / WEIGHTS)


def test_other_forms_of_the_same_weights_are_loaded(copied, vlm):
    expected = vlm.model.state_dict()
    for change in (to_bin, lambda folder: None):
        change(copied)
        loaded = load(copied).model.state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in expected.items())


def test_shards_are_loaded(copied, vlm):
    shard(copied)
    loaded = load(copied).model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in vlm.model.state_dict().items())


def test_numbers_that_float16_cannot_hold_are_told(copied):
    rewrite(copied, only("mlp", holding(1e6)))
    assert load(copied)
    assert "model.dtype=bfloat16: float16 ends at 65504" in refusal(copied, dtype="float16")


def test_a_tokenizer_larger_than_the_embedding_is_told(copied, base):
    processor = load_processor(base)
    processor.tokenizer.add_tokens([f"<new{number}>" for number in range(60)])
    processor.tokenizer.save_pretrained(copied)
    assert (
        "the tokenizer has ids up to" in (message := refusal(copied)) and "resize_token_embeddings" in message
    )


def test_the_old_chat_template_is_used(copied, base, mixed):
    template = (copied / "chat_template.jinja").read_text()
    (copied / "chat_template.jinja").unlink()
    (copied / "chat_template.json").write_text(json.dumps({"chat_template": "# old\n" + template}))
    processor = load_processor(copied)
    assert processor.chat_template == "# old\n" + template
    messages = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    shown = processor.apply_chat_template(messages, tokenize=False)
    assert shown == "# old\n" + load_processor(base).apply_chat_template(messages, tokenize=False)


# --- adapters ---------------------------------------------------------------------------------------------------


@pytest.fixture
def adapted(base, tmp_path) -> tuple[Path, VLM]:
    """The folder that PEFT saves, and the trained model."""
    config = LoraConfig(r=4, target_modules=r".*(q_proj|down_proj|qkv)", init_lora_weights=False)
    vlm = PretrainedModel(str(base), device="cpu").load(adapter=config)
    vlm.model.save_pretrained(tmp_path / "adapter")  # pyright: ignore[reportCallIssue]
    return tmp_path / "adapter", vlm


def test_an_adapter_is_loaded_with_its_base(adapted, base):
    folder, trained = adapted
    vlm = load(folder)
    assert vlm.path == str(folder) and model_of_run(folder) == folder
    ids = torch.arange(5, 25)[None]
    one, other = (each.model.eval()(input_ids=ids).logits for each in (trained, vlm))
    assert torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one, load(base).model.eval()(input_ids=ids).logits, atol=1e-2)
    merged = vlm.core.state_dict()
    assert not [name for name in merged if "lora" in name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: edit(f, "adapter_config.json", base_model_name_or_path=None), "names no base model"),
        (lambda f: edit(f, "adapter_config.json", base_model_name_or_path="/no/where"), "is an adapter of '/no/where'"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "an adapter without adapter_model.safetensors"),
        (lambda f: cut(f, "adapter_model.safetensors"), "cut off or damaged"),
        (lambda f: point(f, "adapter_model.safetensors"), "a pointer of Git LFS"),
        (lambda f: edit(f, "adapter_config.json", r=8), "the adapter doesn't fit its base"),
        (lambda f: edit(f, "adapter_config.json", target_modules=["nosuch"]), "the adapter doesn't fit its base"),
        (
            lambda f: edit(f, "adapter_config.json", target_modules=r".*(q_proj|k_proj|down_proj|qkv)"),
            "doesn't fit its base .* of its tensors are missing",
        ),
        (lambda f: edit(f, "adapter_config.json", target_modules=r".*q_proj"), "have no place"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_one_sentence(adapted, change, words):
    folder, _ = adapted
    change(folder)
    message = refusal(folder)
    assert re.search(words, message), message


# --- text models, and the check itself --------------------------------------------------------------------------


def test_a_text_model_is_held_to_the_same(tmp_path, base):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"vocab_size": 400, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    folder = tmp_path / "text"
    Qwen2ForCausalLM(Qwen2Config(**sizes, **heads)).save_pretrained(folder)
    load_processor(base).tokenizer.save_pretrained(folder)
    text = TextModel(str(folder), dtype="float32", device="cpu")
    assert text.load().core.config.model_type == "qwen2"
    assert "takes no images" in refusal(folder)
    for change, words in (
        (only("q_proj.weight", holding(float("nan"))), "NaN"),
        (lambda t: {k: v for k, v in t.items() if "norm" not in k}, "are not in the checkpoint"),
    ):
        rewrite(folder, change)
        with pytest.raises(UserError, match=words):
            text.load()
    cut(folder, WEIGHTS)
    with pytest.raises(UserError, match="cut off"):
        text.load()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_bad_number_among_many_is_found(dtype):
    plain = {
        "a": torch.randn(100, 7).to(dtype),
        "b": torch.arange(3),
        "c": torch.zeros(0, 2),
        "d": torch.ones(()),
    }
    assert find_not_finite(plain.items()) == []
    largest = torch.full((3,), torch.finfo(dtype).max, dtype=dtype)
    assert find_not_finite([*plain.items(), ("largest", largest)]) == []
    for value in ("nan", "inf", "-inf"):
        odd = {**plain, "e": plain["a"].clone(), "f": plain["d"].to(dtype) * float(value)}
        odd["e"][99, 6] = float(value)
        assert find_not_finite(odd.items()) == ["e", "f"]
