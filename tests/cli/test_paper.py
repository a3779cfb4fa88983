"""scale=7b is the paper: its settings, amounts, sources and models."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig

from openvlt.config.build import build
from tests.helpers.configs import NEEDED, compose

SEEN = ["figureqa", "geos", "geometry3k", "tabmwp", "vizwiz", "ai2d"]
HARDER = [*SEEN, "clevr", "superclevr", "iconqa", "mapqa", "scienceqa"]
RL = {"geometry3k", "geos", "figureqa", "clevr", "superclevr"}


@pytest.fixture(scope="module", params=["iter1", "iter2", "iter3", "openvlthinker"])
def paper(request: pytest.FixtureRequest) -> DictConfig:
    return compose(f"+experiment={request.param}", "scale=7b", *NEEDED["scale=7b"])


def test_sft_has_the_papers_settings(paper: DictConfig) -> None:
    assert paper.sft.optimizer.learning_rate == 5e-7
    assert (paper.sft.batch_size, paper.sft.epochs, paper.sft.warmup_ratio) == (32, 1, 0.1)
    assert paper.sft.scheduler._target_ == "transformers.get_cosine_schedule_with_warmup"
    assert paper.sft.batch_size % paper.sft.micro_batch == 0
    assert paper.trainer.precision == "bf16-true" and paper.model.dtype == "bfloat16"
    assert list(paper.model.freeze) == ["vision", "projector"] and paper.model.max_pixels == 262144
    assert paper.model.path == "Qwen/Qwen2.5-VL-7B-Instruct"


def test_grpo_has_the_papers_settings(paper: DictConfig) -> None:
    grpo = paper.grpo
    assert (grpo.prompts_per_rollout, grpo.prompts_per_update, grpo.group_size) == (512, 128, 5)
    assert (grpo.temperature, grpo.top_p, grpo.max_grad_norm, grpo.kl, grpo.warmup_ratio) == (
        1.0,
        0.99,
        1.0,
        1e-2,
        0.0,
    )
    assert (grpo.optimizer.learning_rate, grpo.optimizer.weight_decay) == (1e-6, 1e-2)
    assert grpo.optimizer._target_ == "openvlt.trainer.optimizer.adamw"
    assert grpo.scheduler._target_ == "openvlt.trainer.optimizer.constant"
    assert (paper.prompt.max_tokens, grpo.max_new_tokens, paper.evaluation.sampling.max_new_tokens) == (
        6144,
        2048,
        2048,
    )
    assert (
        grpo.loss_aggregation._target_ == "openvlt.grpo.parts.loss_aggregation.sequence_mean"
        and grpo.denominator == "all"
    )  # (1/G) sum (1/|o|) sum
    assert grpo.advantage._target_ == "openvlt.grpo.parts.advantage.normalise_by_group"
    assert grpo.loss._target_ == "openvlt.grpo.parts.loss.clipped_surrogate"
    assert (grpo.loss.clip_low, grpo.loss.clip_high) == (0.2, 0.2)
    assert list(paper.reward.terms) == ["accuracy"] and dict(paper.reward.weights) == {"accuracy": 1.0}


def test_distillation_has_the_papers_settings(paper: DictConfig) -> None:
    for author in (paper.distill, paper.self_distill):
        assert (author.samples, author.select._target_) == (4, "openvlt.distill.select.keep_shortest")
    assert (
        paper.distill.caption.greedy
        and paper.distill.reason._target_.endswith("ScriptedWriter")
        and paper.distill.cut._target_.endswith("cut_reflections")
    )
    assert "caption" not in paper.self_distill and paper.self_distill.reason._target_.endswith("LocalWriter")


@pytest.mark.parametrize("cycle", ["iter2", "iter3"])
def test_later_distillations_take_the_papers_model_from_the_scale_whatever_the_order(cycle: str) -> None:
    for words in ([f"distill={cycle}", "scale=7b"], ["scale=7b", f"distill={cycle}"]):
        config = compose(*words, name="distill")
        assert (
            config.prompt.max_tokens,
            config.distill.reason.prompt.max_tokens,
            config.distill.reason.max_new_tokens,
        ) == (6144, 6144, 2048)
        assert (config.model.path, config.model.dtype, config.model.max_pixels) == (
            "Qwen/Qwen2.5-VL-7B-Instruct",
            "bfloat16",
            262144,
        )
        assert (
            config.select.amount == 5000
            and set(config.select.sources) == set(HARDER)
            and "<think>" in config.prompt.instruction
        )


def test_stages_draw_the_papers_amounts_from_its_sources(paper: DictConfig) -> None:
    stages = build(paper.iteration, "iteration").stages
    cycles = {"iter1": "1", "iter2": "2", "iter3": "3"}.get(paper.name, "123")
    assert list(stages) == (["base"] if "1" in cycles else []) + [
        f"{kind}{n}" for n in cycles for kind in ("traces", "sft", "grpo")
    ]
    for number in cycles:
        traces, problems = stages[f"traces{number}"].select, stages[f"grpo{number}"].select
        assert traces.amount == (25000 if number == "1" else 5000) and problems.amount == 5000
        assert (
            set(traces.sources) == set(SEEN if number == "1" else HARDER)
            and len(set(traces.sources.values())) == 1
        )
        assert set(problems.sources) == RL
        larger = {name for name, share in problems.sources.items() if share > min(problems.sources.values())}
        assert larger == ({"geometry3k", "superclevr"} if number == "3" else set())
        assert stages[f"sft{number}"].start == "base" and stages[f"grpo{number}"].start == f"sft{number}"
    authors = {f"traces{n}": author for n, author in zip("123", ("base", "grpo1", "grpo2"), strict=True)}
    assert all(stages[name].teacher == author for name, author in authors.items() if name in stages)


def test_iter2_and_iter3_continue_the_one_before(paper: DictConfig) -> None:
    assert paper.iteration.previous == {"iter2": "iter1", "iter3": "iter2"}.get(paper.name)
    assert paper.scale == "7b"


@pytest.mark.parametrize(
    "model, parameters", [("qwen2_5_vl_7b", 8_292_166_656), ("qwen2_5_vl_3b", 3_754_622_976)]
)
def test_the_papers_models_build_on_meta_without_a_download(
    model: str, parameters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = build(compose("scale=7b", f"model={model}").model).build_on_meta()
    assert sum(p.numel() for p in made.parameters()) == parameters
    assert {p.device.type for p in made.parameters()} == {"meta"}
    from openvlt.model.load import freeze

    freeze(made, ["vision", "projector"])
    assert all(p.requires_grad == ("visual" not in name) for name, p in made.named_parameters())
