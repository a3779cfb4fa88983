"""What differs between families of vision-language models: one entry each, by the config's `model_type`.

Everything else asks here. A model of another family is handled as `UNKNOWN`: its parts are looked for under
the names that the known ones use, and it runs through its own `forward`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

from torch import nn

from openvlt.errors import UserError
from openvlt.model.hf_types import HFModel, LanguageModel, ModelConfig

PLAIN_DECODERS = ("llama", "qwen2", "qwen3")
"""Language models whose layers all attend to everything before them, and to nothing else."""


@dataclass(frozen=True)
class Family:
    """The facts about one family.

    `vision`, `projector` and `language` are the beginnings of the names of each part's weights; what the
    projector has isn't the vision tower's. `marks` are never generated: tokens that stand for images and
    videos (first the one for an image feature), surround them, or begin a turn. `processor`,
    `image_processor` and `video_processor` name transformers' classes; without `processor`, AutoProcessor
    chooses.
    """

    vision: tuple[str, ...] = ("model.vision_tower",)
    projector: tuple[str, ...] = ("model.multi_modal_projector",)
    language: tuple[str, ...] = ("model.language_model", "lm_head")
    marks: tuple[str, ...] = ()
    shares_prefix: bool = False  # run its parts, each prompt once; else its own forward, whole rows
    has_grid: bool = False  # images are patches, their numbers in image_grid_thw; positions are m-rope's
    area_factor: int = 1  # the image processor's bounds are for so many times an image's area
    token_types: str = ""  # under which name its forward takes the marks of image tokens
    flash_attention: bool = True  # false where its mask is one that flash-attn doesn't have
    processor: str = ""
    image_processor: str = ""  # folder and class of one that works without torchvision
    video_processor: str = ""
    stand_in: str = ""  # the class used in the processor's place, where that needs another package
    images_by_prompt: bool = False  # whether its processor takes a list of images for each prompt
    pixels_by_prompt: bool = False  # whether its forward takes pixel_values with a dimension for prompts
    counts_images: bool = False  # whether its forward takes batch_num_images
    # what surrounds a whole image: its first token, one that only its last part has, the one that ends it
    image_frame: tuple[str, ...] = ()
    saved_names: tuple[tuple[str, str], ...] = ()  # beginnings of weights' names here, and in checkpoints
    vllm_refusal: str = ""  # why rollout=vllm can't serve it, and what to use instead


QWEN2_5_VL = Family(
    vision=("model.visual",),
    projector=("model.visual.merger",),
    marks=(
        *("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|video_pad|>"),
        *("<image>", "<|im_start|>"),
    ),
    shares_prefix=True,
    has_grid=True,
    token_types="mm_token_type_ids",
    processor="Qwen2_5_VLProcessor",
    image_processor="qwen2_vl.Qwen2VLImageProcessorPil",
    video_processor="Qwen2VLVideoProcessor",
)
QWEN3_VL = replace(
    QWEN2_5_VL,
    projector=("model.visual.merger", "model.visual.deepstack_merger_list"),
    processor="Qwen3VLProcessor",
    video_processor="Qwen3VLVideoProcessor",
)
IDEFICS3 = Family(
    vision=("model.vision_model",),
    projector=("model.connector",),
    language=("model.text_model", "lm_head"),
    marks=(
        *("<image>", "<fake_token_around_image>", "<global-img>", "<|im_start|>"),
        *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    ),
    shares_prefix=True,
    processor="Idefics3Processor",
    image_frame=("<fake_token_around_image>", "<global-img>", "<fake_token_around_image>"),
    image_processor="idefics3.Idefics3ImageProcessorPil",
    pixels_by_prompt=True,
)
FAMILIES = {
    "qwen2_vl": replace(QWEN2_5_VL, processor="Qwen2VLProcessor"),
    "qwen2_5_vl": QWEN2_5_VL,
    "qwen3_vl": QWEN3_VL,
    "qwen3_5": replace(  # linear attention
        QWEN3_VL,
        shares_prefix=False,
        vllm_refusal="on a CPU vLLM 0.32 runs its linear attention in bfloat16 only, and on a GPU it "
        "hasn't been compared; use rollout=hf",
    ),
    # linear attention, and attention to chosen tokens
    "qwen4_exp": replace(
        QWEN3_VL,
        shares_prefix=False,
        flash_attention=False,
        vllm_refusal="vLLM 0.32 has it for GPUs only, where it hasn't been compared; use rollout=hf",
    ),
    "internvl": Family(
        marks=("<IMG_CONTEXT>", "<img>", "</img>", "<video>", "<|im_start|>"),
        shares_prefix=True,
        processor="InternVLProcessor",
        image_frame=("<img>", "<IMG_CONTEXT>", "</img>"),
        image_processor="got_ocr2.GotOcr2ImageProcessorPil",
        video_processor="InternVLVideoProcessor",
    ),
    "idefics3": IDEFICS3,
    "smolvlm": replace(
        IDEFICS3,
        processor="SmolVLMProcessor",
        image_processor="smolvlm.SmolVLMImageProcessorPil",
        video_processor="SmolVLMVideoProcessor",
        stand_in="Idefics3Processor",  # the same for images, but without num2words, which is for videos
    ),
    "llava_onevision": Family(
        projector=("model.multi_modal_projector", "model.image_newline"),
        saved_names=(("model.vision_tower.", "model.vision_tower.vision_model."),),
        marks=("<image>", "<video>", "<|im_start|>"),
        shares_prefix=True,
        processor="LlavaOnevisionProcessor",
        image_processor="llava_onevision.LlavaOnevisionImageProcessorPil",
        video_processor="LlavaOnevisionVideoProcessor",
        images_by_prompt=True,
        counts_images=True,
    ),
    "gemma3": Family(  # image tokens see those behind them, and most layers only the last tokens
        marks=("<image_soft_token>", "<start_of_image>", "<end_of_image>"),
        token_types="token_type_ids",
        flash_attention=False,
        vllm_refusal="newlines around its images join those of the text, so that its prompts can't be sent "
        "as tokens; use rollout=hf",
        processor="Gemma3Processor",
        image_processor="gemma3.Gemma3ImageProcessorPil",
        images_by_prompt=True,
    ),
    "glm4v": replace(
        QWEN2_5_VL,
        marks=(
            *("<|image|>", "<|begin_of_image|>", "<|end_of_image|>"),
            *("<|video|>", "<|begin_of_video|>", "<|end_of_video|>"),
        ),
        area_factor=2,  # an image counts as two frames
        processor="Glm4vProcessor",
        image_processor="glm4v.Glm4vImageProcessorPil",
        video_processor="Glm4vVideoProcessor",
    ),
}
UNKNOWN = Family(
    vision=("model.visual", "model.vision_tower", "model.vision_model"),
    projector=("model.visual.merger", "model.multi_modal_projector", "model.connector", "model.mm_projector"),
    language=("model.language_model", "model.text_model", "lm_head"),
    marks=QWEN2_5_VL.marks,
    token_types="mm_token_type_ids",
)
MODEL_PARTS = ("vision", "projector", "language")


def find_family(config: ModelConfig) -> Family:
    """The family of a model with this config; `UNKNOWN` for one without an entry."""
    return FAMILIES.get(config.model_type, UNKNOWN)


def shares_prefix(model: HFModel) -> bool:
    """Whether each prompt can run once for all its completions.

    So it is in families of the table, where every layer attends to everything before a token.
    """
    config = model.config
    text: Any = config.get_text_config()
    layers = getattr(text, "layer_types", None) or ()
    plain = text.model_type in PLAIN_DECODERS or text.model_type.startswith(config.model_type)
    return find_family(config).shares_prefix and plain and set(layers) <= {"full_attention"}


def part_parameters(model: HFModel, part: str) -> list[nn.Parameter]:
    """The weights of a part, one of `MODEL_PARTS`. Raises UserError for a model without it."""
    family = find_family(model.config)
    names, others = getattr(family, part), family.projector if part == "vision" else ()
    found = [
        value
        for name, value in model.named_parameters()
        if _is_below(name, names) and not _is_below(name, others)
    ]
    if not found:
        raise UserError(
            f"{type(model).__name__} has no {part} under {', '.join(names)}; remove it from model.freeze"
        )
    return found


def language_model(model: HFModel) -> LanguageModel:
    """The decoder below the head. Raises UserError for a model that has none under its family's names."""
    names = [name for name in find_family(model.config).language if name.startswith("model.")]
    for name in names:
        if (module := getattr(model.model, name.removeprefix("model."), None)) is not None:
            return cast(LanguageModel, module)
    raise UserError(f"{type(model).__name__} has no language model under {', '.join(names)}")


def _is_below(name: str, beginnings: tuple[str, ...]) -> bool:
    return any(name == beginning or name.startswith(f"{beginning}.") for beginning in beginnings)
