"""The model's hooks, in one place: prompts to embeddings and positions, rows to the hidden states that predict completions.

Families listed in `SHARED` are driven through their public parts (`get_image_features`, `get_rope_index`, `language_model`), so the
vision tower runs once per problem however many completions it has. Others go through their own `forward`, whole rows at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openvlt.model.load import VLM
from openvlt.types import Prompts

SHARED = ("qwen2_vl", "qwen2_5_vl")


def shares_prefix(model: nn.Module) -> bool:
    """Whether this family's hooks are known (see `SHARED`)."""
    return model.config.model_type in SHARED


@dataclass(frozen=True)
class Prefix:
    """Prompts ready for the language model: embeddings (P,L,D) with image features in place, m-rope positions (3,P,L)."""

    embeds_PLD: Tensor
    positions_3PL: Tensor
    mask_PL: Tensor

    @property
    def next_P(self) -> Tensor:
        """Position of the first completion token of each prompt, equal on all three axes."""
        return self.positions_3PL.amax((0, 2)) + 1


def encode(vlm: VLM, prompts: Prompts) -> Prefix:
    """Runs the vision tower once per image and places its features at the prompt's image tokens."""
    model = vlm.core
    embeds_PLD = model.get_input_embeddings()(prompts.ids_PL)
    if prompts.vision:
        features = model.get_image_features(**prompts.vision).pooler_output
        features = torch.cat(list(features)) if isinstance(features, (tuple, list)) else features
        is_image_PL1 = (prompts.ids_PL == model.config.image_token_id)[..., None]
        embeds_PLD = embeds_PLD.masked_scatter(is_image_PL1, features.to(embeds_PLD.dtype))
    positions_3PL, _ = model.model.get_rope_index(
        prompts.ids_PL,
        mm_token_type_ids=prompts.token_type_PL,
        image_grid_thw=prompts.vision.get("image_grid_thw"),
        attention_mask=prompts.mask_PL,
    )
    return Prefix(embeds_PLD, positions_3PL, prompts.mask_PL)


def completion_hidden(vlm: VLM, prompts: Prompts, ids_NT: Tensor, mask_NT: Tensor, group_N: Tensor) -> Tensor:
    """Hidden states (N,T,D) from which each completion token is predicted: the prompt's last row, then the completion's own."""
    if not shares_prefix(vlm.core):
        return _plain_hidden(vlm, prompts, ids_NT, mask_NT, group_N)
    prefix = encode(vlm, prompts)
    return continue_hidden(vlm, prefix, ids_NT, mask_NT, group_N)


def continue_hidden(vlm: VLM, prefix: Prefix, ids_NT: Tensor, mask_NT: Tensor, group_N: Tensor) -> Tensor:
    """As `completion_hidden`, from prompts that are encoded already. The last token predicts nothing and isn't fed."""
    model, width, steps = vlm.core, prefix.mask_PL.shape[1], ids_NT.shape[1]
    fed_NT = ids_NT[:, :-1]
    embeds = torch.cat([prefix.embeds_PLD[group_N], model.get_input_embeddings()(fed_NT)], 1)
    steps_1T = torch.arange(steps - 1, device=ids_NT.device)[None]
    next_3NT = (prefix.next_P[group_N][:, None] + steps_1T).expand(3, -1, -1)
    positions = torch.cat([prefix.positions_3PL[:, group_N], next_3NT], 2)
    mask = torch.cat([prefix.mask_PL[group_N], mask_NT[:, :-1]], 1)
    hidden = model.model.language_model(
        inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return hidden[:, width - 1 :]


def _plain_hidden(vlm: VLM, prompts: Prompts, ids_NT: Tensor, mask_NT: Tensor, group_N: Tensor) -> Tensor:
    """Whole rows through the model's own forward: images are encoded once per row. Correct for every family, and slow."""
    rows = prompts.select(group_N.tolist())
    width = rows.ids_PL.shape[1]
    types = torch.cat([rows.token_type_PL, torch.zeros_like(ids_NT[:, :-1])], 1)
    output = vlm.core.model(
        input_ids=torch.cat([rows.ids_PL, ids_NT[:, :-1]], 1),
        attention_mask=torch.cat([rows.mask_PL, mask_NT[:, :-1]], 1),
        **({"mm_token_type_ids": types} if types.any() else {}),
        **rows.vision,
        use_cache=False,
    )
    return output.last_hidden_state[:, width - 1 :]
