"""What is published is what was trained: adapters of every kind, on a model whose head and embedding are one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from openvlt.errors import UserError
from openvlt.model.load import VLM, PretrainedModel
from openvlt.runs import saved_model
from openvlt.runs.saved_model import probe_logits, save_model

LAYERS = r".*language_model.*\.(q_proj|down_proj)"


@pytest.fixture(scope="module")
def base(vlm, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("base") / "model"
    vlm.save(path)
    return path


def train(base: Path, dtype: str = "float32", **settings) -> VLM:
    """A model with an adapter whose weights have moved."""
    config = LoraConfig(r=4, lora_alpha=8, **settings)
    made = PretrainedModel(str(base), dtype=dtype, device="cpu").load(adapter=config)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in made.model.parameters():
            if value.requires_grad:
                value.add_(0.05 * torch.randn(value.shape, generator=rng).to(value.dtype))
    return made


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": LAYERS},
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear"},
        {"target_modules": LAYERS, "use_dora": True},
        {"target_modules": LAYERS, "use_rslora": True},
        {"target_modules": r".*visual.*(qkv|proj)"},
        {"target_modules": LAYERS, "modules_to_save": ["lm_head"]},
        {"target_modules": LAYERS, "modules_to_save": ["embed_tokens"]},
        {"target_modules": LAYERS, "modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": LAYERS, "modules_to_save": ["lm_head"], "ensure_weight_tying": True},
        {"target_modules": LAYERS, "trainable_token_indices": [3, 4, 5]},
        {"target_modules": LAYERS, "dtype": "bfloat16"},
    ],
    ids=str,
)
def test_the_saved_model_is_the_trained_one(base, tmp_path, settings):
    made = train(base, **settings)
    trained = probe_logits(made)
    untouched = probe_logits(PretrainedModel(str(base), device="cpu").load())
    save_model(made, tmp_path)
    saved = probe_logits(PretrainedModel(str(base), dtype=settings.get("dtype", "float32"), device="cpu").load(tmp_path / "model"))  # fmt: skip
    scale, loose = trained.std(), 5e-2 if "dtype" in settings else 1e-3
    assert (saved - trained).square().mean().sqrt() / scale < loose
    assert (untouched - trained).square().mean().sqrt() / scale > 2 * loose  # it had learned something
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("targets", "layer"),
    [
        (["q_proj", "lm_head"], "lm_head"),
        (["embed_tokens"], "embed_tokens"),
        (r".*(q_proj|lm_head)", "lm_head"),
        (f"({LAYERS}|.*embed_tokens)", "embed_tokens"),
        (["model.language_model.embed_tokens"], "embed_tokens"),
    ],
    ids=str,
)
def test_half_of_a_tied_pair_is_refused(base, targets, layer):
    words = f"has {layer}, but .* head and embedding are one tensor.*adapter.modules_to_save=.{layer}."
    with pytest.raises(UserError, match=words):
        train(base, target_modules=targets)


def test_an_untied_head_may_have_an_adapter(base, tmp_path):
    made = PretrainedModel(str(base), device="cpu").load()
    head = made.core.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone() * 1.1)
    made.save(tmp_path / "untied")
    adapted = train(tmp_path / "untied", target_modules=["q_proj", "lm_head", "embed_tokens"])
    trained = probe_logits(adapted)
    save_model(adapted, tmp_path)
    saved = probe_logits(PretrainedModel(str(base), device="cpu").load(tmp_path / "model"))
    assert torch.allclose(saved, trained, atol=1e-3)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["tie_word_embeddings"] is False


def test_unknown_targets_are_one_sentence(base):
    with pytest.raises(UserError, match="adapter: .*nosuch.*adapter.target_modules names layers"):
        train(base, target_modules=["nosuch"])


def test_a_merge_that_loses_the_training_is_not_published(base, tmp_path, monkeypatch):
    made = train(base, target_modules=LAYERS)
    monkeypatch.setattr(VLM, "merge_adapter", lambda vlm: vlm.model.unload())
    with pytest.raises(UserError, match="another model than the trained one: its logits differ by"):
        save_model(made, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_saved_folder_that_differs_is_not_published(base, tmp_path, monkeypatch):
    made = train(base, target_modules=LAYERS)
    real = VLM.save

    def save_other(vlm: VLM, folder: Path) -> None:
        real(PretrainedModel(str(base), device="cpu").load(), folder)

    monkeypatch.setattr(saved_model.VLM, "save", save_other)
    with pytest.raises(UserError, match=r"saved model isn't the trained one \(.*q_proj.* differs\)"):
        save_model(made, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_are_not_published(fresh, tmp_path):
    made = fresh()
    with torch.no_grad():
        next(made.model.parameters())[0] = torch.nan
    with pytest.raises(UserError, match="the trained model: 1 tensor holds NaN.*it isn't saved"):
        save_model(made, tmp_path)
    assert list(tmp_path.iterdir()) == []
