"""The attributes of a transformers model that openvlt uses, declared for readers and type checkers.

transformers sets most of them at run time, where `nn.Module.__getattr__` hides their types. Nothing here is
ever instantiated: `HFModel` stands for whatever `from_pretrained`, `from_config` or PEFT returned.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import GenerationConfig


class TextConfig(Protocol):
    """The language model's part of a config."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    num_hidden_layers: int
    use_cache: bool
    tie_word_embeddings: bool
    _attn_implementation: str


class VisionConfig(Protocol):
    """The vision tower's part of a config."""

    in_channels: int
    patch_size: int
    spatial_merge_size: int
    temporal_patch_size: int


class ModelConfig(Protocol):
    """The config of a vision-language model."""

    model_type: str
    image_token_id: int
    vision_config: VisionConfig
    tie_word_embeddings: bool
    _attn_implementation: str

    def get_text_config(self) -> TextConfig: ...


class VisionTower(nn.Module):
    """The vision tower of Qwen's families, whose projector is its `merger`."""

    merger: nn.Module


class LanguageModel(nn.Module):
    """The decoder below the head."""

    config: TextConfig


class HFBackbone(nn.Module):
    """`HFModel.model`: vision tower, projector and language model. Some families have no `visual`."""

    language_model: LanguageModel
    visual: VisionTower
    get_rope_index: Callable[..., tuple[Tensor, Tensor]]


class HFModel(nn.Module):
    """A transformers model with its head, bare or under a PEFT adapter. The last three need an adapter."""

    config: ModelConfig
    generation_config: GenerationConfig
    dtype: torch.dtype
    model: HFBackbone
    get_input_embeddings: Callable[[], nn.Embedding]
    get_output_embeddings: Callable[[], nn.Linear]
    get_image_features: Callable[..., Any]
    generate: Callable[..., Tensor]
    save_pretrained: Callable[..., Any]
    set_attn_implementation: Callable[[dict[str, str]], None]
    get_base_model: Callable[[], HFModel]
    merge_and_unload: Callable[[], HFModel]
    disable_adapter: Callable[[], Any]


class AttentionLayer(nn.Module):
    """The module that transformers hands to an attention function."""

    layer_idx: int
