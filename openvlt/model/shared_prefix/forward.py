"""The model's hooks, in one place: prompts to embeddings and positions, rows to the hidden states that predict completions.

Families listed in `SHARED` are driven through their public parts (`get_image_features`, `get_rope_index`, `language_model`): a group is
one packed sequence, so vision tower and prompt run once per problem however many completions it has. Others go through their own
`forward`, whole rows at a time, and say so once.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor, nn

from openvlt.errors import UserError
from openvlt.model.load import VLM
from openvlt.model.shared_prefix.attention import NAME, Attend, PackedAttention
from openvlt.model.shared_prefix.packing import Packing, pack
from openvlt.model.shared_prefix.vision_features import image_features, pixels
from openvlt.types import Prompts

SHARED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TESTED = "5.23"


def shares_prefix(model: nn.Module) -> bool:
    """Whether this family's hooks are known (see `SHARED`)."""
    return model.config.model_type in SHARED


@dataclass(frozen=True)
class Prefix:
    """Prompts ready for the language model, one after another without padding: S tokens in all.

    `embeds_SD` has image features in place, `positions_3S` are m-rope's, `image_S` marks image tokens and `deep` holds what some
    families add there after the first layers (DeepStack; empty elsewhere). `next_P` is the position of each first completion token.
    """

    embeds_SD: Tensor
    positions_3S: Tensor
    image_S: Tensor
    deep: tuple[Tensor, ...]
    next_P: Tensor


def encode(vlm: VLM, prompts: Prompts, *, again: bool = False) -> Prefix:
    """Runs the vision tower once per image (or takes its stored features) and places its features at the prompt's image tokens.

    `again` lets a trained tower run a second time in the backward pass, so that nothing of it is kept while completions are scored.
    """
    model, real_PL = vlm.core, prompts.mask_PL.bool()
    _require(model, ("get_input_embeddings", "get_image_features"), model)
    _require(model, ("get_rope_index", "language_model"), model.model)
    ids_S = prompts.ids_PL[real_PL]
    embeds_SD, deep = model.get_input_embeddings()(ids_S), ()
    image_S = ids_S == model.config.image_token_id
    if prompts.vision:
        features, deep = image_features(vlm, prompts, again=again)
        embeds_SD = embeds_SD.masked_scatter(image_S[:, None], features.to(embeds_SD.dtype))
    positions_3PL, _ = model.model.get_rope_index(
        prompts.ids_PL,
        mm_token_type_ids=prompts.token_type_PL,
        image_grid_thw=prompts.vision.get("image_grid_thw"),
        attention_mask=prompts.mask_PL,
    )
    return Prefix(embeds_SD, positions_3PL[:, real_PL], image_S, deep, positions_3PL.amax((0, 2)) + 1)


def scored_hidden(vlm: VLM, prompts: Prompts, ids_NT: Tensor, mask_NT: Tensor, group_N: Tensor) -> Tensor:
    """Hidden states (M,D) from which each completion token is predicted, row by row: the prompt's last, then the completion's own."""
    if not shares_prefix(vlm.core):
        _say_plain(vlm.core.config.model_type)
        return _plain_hidden(vlm, prompts, ids_NT, mask_NT, group_N)[mask_NT.bool()]
    packing = pack(prompts.mask_PL, mask_NT, group_N)
    prefix = encode(
        vlm, prompts, again=len(ids_NT) > len(prompts)
    )  # once per image: cheap where a group shares it, not in SFT
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
    return language(vlm.core, embeds_SD[order][None], positions_3S[:, order][:, None], attend, **deep)[0]


def language(
    model: nn.Module, embeds_BSD: Tensor, positions_3BS: Tensor, attend: Attend, **deep: object
) -> Tensor:
    """The language model's last hidden states (B,S,D) with `attend` as the attention of every layer.

    Raises UserError when the installed transformers no longer hands `attend` to its layers: results would be silently wrong.
    """
    config = model.model.language_model.config
    if config._attn_implementation != NAME:
        model.set_attn_implementation({"text_config": NAME})
    called: set[int] = set()

    def counted(layer: int, *rest: object) -> Tensor:
        called.add(layer)
        return attend(layer, *rest)

    # a mask of four dimensions is handed on as it is: no mask is made, `attend` needs none
    output = model.model.language_model(
        inputs_embeds=embeds_BSD,
        position_ids=positions_3BS,
        attention_mask=embeds_BSD.new_zeros(1, 1, 1, 1),
        use_cache=False,
        attend=counted,
        **deep,
    )
    if len(called) != config.num_hidden_layers:
        raise UserError(
            _broken(model, f"only {len(called)} of {config.num_hidden_layers} layers asked for our attention")
        )
    return output.last_hidden_state


def _require(model: nn.Module, names: tuple[str, ...], owner: nn.Module) -> None:
    if missing := [name for name in names if not hasattr(owner, name)]:
        raise UserError(_broken(model, f"{type(owner).__name__} has no {', '.join(missing)}"))


def _broken(model: nn.Module, what: str) -> str:
    return (
        f"transformers {transformers.__version__} changed a hook that the shared-prefix path of {model.config.model_type} needs ({what}); "
        f"install transformers {TESTED}, the version it is tested with"
    )


def _say_plain(model_type: str) -> None:
    warnings.warn(
        f"model type {model_type!r} isn't one of {', '.join(SHARED)}: every completion runs its own prompt and images, correct but slow",
        stacklevel=3,
    )


def _plain_hidden(vlm: VLM, prompts: Prompts, ids_NT: Tensor, mask_NT: Tensor, group_N: Tensor) -> Tensor:
    """Whole rows through the model's own forward: images are encoded once per row. Correct for every family, and slow."""
    rows = prompts.select(group_N.tolist())
    width = rows.ids_PL.shape[1]
    types = torch.cat([rows.token_type_PL, torch.zeros_like(ids_NT[:, :-1])], 1)
    output = vlm.core.model(
        input_ids=torch.cat([rows.ids_PL, ids_NT[:, :-1]], 1),
        attention_mask=torch.cat([rows.mask_PL, mask_NT[:, :-1]], 1),
        **({"mm_token_type_ids": types} if types.any() else {}),
        **pixels(rows),
        use_cache=False,
    )
    return output.last_hidden_state[:, width - 1 :]
