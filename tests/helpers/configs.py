"""Configs as the entry scripts compose them."""

from __future__ import annotations

import copy
import functools

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from openvlt.config.resolvers import CONF

_REASONER = ["reasoner={_target_: openvlt.distill.reason.write_chain, _partial_: true}"]
_SERVER = [
    f"distill.reason.server.endpoints.{setting}"
    for setting in ("urls=http://localhost:8000/v1", "model=name")
]
NEEDED = {  # what a file leaves for the user to say
    "data=jsonl": ["data.path=rows.jsonl"],
    "experiment=own": ["data.path=rows.jsonl"],
    "data=hub": ["data.path=owner/name"],
    "data=graded": ["data.path=problems.parquet"],
    "model=pretrained": ["model.path=owner/name"],
    "scale=7b": _REASONER,
    "scale=3b": _REASONER,
    "distill=served": _SERVER,
    **{f"experiment=openvlthinker_{name}": _SERVER for name in ("8x80", "lora_80gb", "lora_24gb", "3b")},
    "rollout=vllm": ["rollout.start=true"],
    "recipe=vogue": [
        *("grpo.advantage_shaping.uncertainty.weight=0.1", "grpo.advantage_shaping.uncertainty.limit=0.5"),
        *("grpo.advantage_shaping.entropy.weight=0.01", "grpo.rollout_plan.more.noisy.n.end=1"),
    ],
    "recipe=pearl": ["grpo.advantage_shaping.perceived.auxiliary=1.0"],
    "optimizer=adamw": ["~sft.optimizer.muon_learning_rate"],  # scale=tiny gives it to the muon that it chose
}


def compose(*overrides: str, name: str = "train") -> DictConfig:
    """The config of `<name>.py` with these words. Files chosen before are not composed again, which takes a third of a second."""
    choices = [word for word in overrides if _chooses_file(word)]
    config = copy.deepcopy(_compose_files(name, *choices))
    values = [word for word in overrides if word not in choices]
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(values), config)
    return config


def compose_anew(*overrides: str, name: str = "train") -> DictConfig:
    """The same by Hydra alone, whose errors are those of the command line."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(name, overrides=list(overrides))


_compose_files = functools.cache(lambda name, *choices: compose_anew(*choices, name=name))


def _chooses_file(word: str) -> bool:
    return (CONF / word.partition("=")[0].partition("@")[0].lstrip("+~")).is_dir()
