"""Forward passes in which each prompt runs once, however many completions it has.

All use of transformers' hooks is in this file. Families that share prefixes (`openvlt.model.families`) are
driven through their public parts (`get_image_features`, `get_rope_index`, the language model): a group is one
packed sequence, so vision tower and prompt run once per problem. Other families go through their own
`forward`, whole rows at a time, with one warning.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from openvlt.errors import UserError
from openvlt.model import families
from openvlt.model.hf_types import HFModel
from openvlt.model.load import VLM
from openvlt.model.shared_prefix.attention import ATTENTION_NAME, Attend, PackedAttention
from openvlt.model.shared_prefix.packing import Packing, pack
from openvlt.model.shared_prefix.vision_features import add_blank_features, forward_inputs, image_features
from openvlt.model.transformers_range import NEWEST, OLDEST
from openvlt.types import Prompts


@dataclass(frozen=True)
class Prefix:
    """Prompts ready for the language model, one after another without padding: S tokens in all.

    `embeds_SD` has image features in place, `positions_3S` are m-rope's (three times the same where a family
    has one position per token), `image_S` marks image tokens. `deep` holds what some families add at image
    tokens after the first layers (DeepStack; empty elsewhere). `next_P` is the position of each prompt's
    first completion token.
    """

    embeds_SD: Tensor
    positions_3S: Tensor
    image_S: Tensor
    deep: tuple[Tensor, ...]
    next_P: Tensor


def encode_prompts(vlm: VLM, prompts: Prompts, *, recompute: bool = False) -> Prefix:
    """Runs the vision tower once per image (or takes its stored features) and embeds the prompts.

    With `recompute` a trained tower runs a second time in the backward pass, so that its activations don't
    stay in memory while completions are scored.
    """
    model, real_PL = vlm.core, prompts.mask_PL.bool()
    _require(model, ("get_input_embeddings", "get_image_features"), model)
    ids_S = prompts.ids_PL[real_PL]
    embeds_SD, deep = model.get_input_embeddings()(ids_S), ()
    image_S = ids_S == model.config.image_token_id
    if prompts.vision:
        features, deep = image_features(vlm, prompts, recompute=recompute)
        embeds_SD = embeds_SD.masked_scatter(image_S[:, None], features.to(embeds_SD.dtype))
    embeds_SD = add_blank_features(vlm, prompts, embeds_SD)
    positions_3PL = _positions(model, prompts)
    return Prefix(embeds_SD, positions_3PL[:, real_PL], image_S, deep, positions_3PL.amax((0, 2)) + 1)


def _positions(model: HFModel, prompts: Prompts) -> Tensor:
    """Positions (3,P,L) of prompt tokens; those of padding are never the largest."""
    if not families.find_family(model.config).has_grid:
        return (prompts.mask_PL.cumsum(1) - 1).clamp(min=0).expand(3, -1, -1)
    _require(model, ("get_rope_index",), model.model)
    positions_3PL, _ = model.model.get_rope_index(
        prompts.ids_PL,
        mm_token_type_ids=prompts.token_type_PL,
        image_grid_thw=prompts.vision.get("image_grid_thw"),
        attention_mask=prompts.mask_PL,
    )
    return positions_3PL


def completion_hidden(vlm: VLM, prompts: Prompts, ids_NT: Tensor, mask_NT: Tensor, group_N: Tensor) -> Tensor:
    """Hidden states (M,D) that predict each completion token, row by row.

    The first token's is that of the prompt's last token, the others' are those of the completion itself.
    """
    if not families.shares_prefix(vlm.core):
        _warn_whole_rows(vlm.core.config.model_type)
        return _whole_row_hidden(vlm, prompts, ids_NT, mask_NT, group_N)[mask_NT.bool()]
    packing = pack(prompts.mask_PL, mask_NT, group_N)
    # recomputing costs one pass per image: cheap where a group shares it, not in SFT
    prefix = encode_prompts(vlm, prompts, recompute=len(ids_NT) > len(prompts))
    hidden_SD = packed_hidden(vlm, prefix, ids_NT, group_N, packing, PackedAttention(packing))
    return hidden_SD.index_select(0, packing.source_M)


def packed_hidden(
    vlm: VLM, prefix: Prefix, ids_NT: Tensor, group_N: Tensor, packing: Packing, attend: Attend
) -> Tensor:
    """Hidden states (S,D) of a packed sequence, in its order."""
    fed = packing.fed_tokens
    embeds_SD, positions_3S, image_S = prefix.embeds_SD, prefix.positions_3S, prefix.image_S
    if len(fed):
        row, step = fed // ids_NT.shape[1], fed % ids_NT.shape[1]
        own_SD = vlm.core.get_input_embeddings()(ids_NT.flatten()[fed])
        embeds_SD = torch.cat([embeds_SD, own_SD])
        positions_3S = torch.cat([positions_3S, (prefix.next_P[group_N[row]] + step).expand(3, -1)], 1)
        image_S = torch.cat([image_S, image_S.new_zeros(len(fed))])
    order = packing.order_S
    deep = {}
    if prefix.deep:
        # features come in the batch's order of image tokens, the packed sequence has an order of its own
        place_S = torch.cumsum(image_S, 0)[order][image_S[order]] - 1
        deep = {
            "visual_pos_masks": image_S[order][None],
            "deepstack_visual_embeds": [layer[place_S] for layer in prefix.deep],
        }
    embeds_1SD, positions_31S = embeds_SD[order][None], positions_3S[:, order][:, None]
    return run_language_model(vlm.core, embeds_1SD, positions_31S, attend, **deep)[0]


def run_language_model(
    model: HFModel, embeds_BSD: Tensor, positions_3BS: Tensor, attend: Attend, **deep: Any
) -> Tensor:
    """Runs the language model with `attend` in every layer; returns its last hidden states (B,S,D).

    Raises UserError when the installed transformers doesn't pass `attend` on to every layer: results would be
    silently wrong.
    """
    decoder, has_grid = families.language_model(model), families.find_family(model.config).has_grid
    config = decoder.config
    if config._attn_implementation != ATTENTION_NAME:
        model.set_attn_implementation({"text_config": ATTENTION_NAME})
    called: set[int] = set()

    def record_and_attend(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        called.add(layer)
        return attend(layer, query, key, value, scale)

    output = decoder(
        inputs_embeds=embeds_BSD,
        position_ids=positions_3BS if has_grid else positions_3BS[0],
        attention_mask=embeds_BSD.new_zeros(1, 1, 1, 1),  # of four dimensions: transformers builds no mask
        use_cache=False,
        attend=record_and_attend,
        **deep,
    )
    if len(called) != config.num_hidden_layers:
        what = f"only {len(called)} of {config.num_hidden_layers} layers asked for our attention"
        raise UserError(_broken_hook_message(model, what))
    return output.last_hidden_state


def _require(model: HFModel, names: tuple[str, ...], owner: nn.Module) -> None:
    if missing := [name for name in names if not hasattr(owner, name)]:
        what = f"{type(owner).__name__} has no {', '.join(missing)}"
        raise UserError(_broken_hook_message(model, what))


def _broken_hook_message(model: HFModel, what: str) -> str:
    return (
        f"transformers {transformers.__version__} changed a hook that the shared-prefix path of "
        f"{model.config.model_type} needs ({what}); "
        f"install transformers {OLDEST} to {NEWEST}, which it is tested with"
    )


@functools.cache  # once: what resets warnings, as PEFT's and Lightning's do, would repeat it every step
def _warn_whole_rows(model_type: str) -> None:
    warnings.warn(
        f"a model of type {model_type!r} can't share prefixes: every completion runs its own prompt and "
        "images, correct but slow (docs/usage.md lists the families that can)",
        stacklevel=3,
    )


def _whole_row_hidden(vlm: VLM, prompts: Prompts, ids_NT: Tensor, mask_NT: Tensor, group_N: Tensor) -> Tensor:
    """Hidden states (N,T,D) of whole rows through the model's own forward: slow, but for every family."""
    rows = prompts.select(group_N.tolist())
    width = rows.ids_PL.shape[1]
    output = vlm.core.model(
        input_ids=torch.cat([rows.ids_PL, ids_NT[:, :-1]], 1),
        attention_mask=torch.cat([rows.mask_PL, mask_NT[:, :-1]], 1),
        **forward_inputs(vlm, rows, ids_NT.shape[1] - 1),
        use_cache=False,
    )
    return add_blank_features(vlm, rows, output.last_hidden_state[:, width - 1 :])
