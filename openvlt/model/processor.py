"""Loading and saving processors, which turn chat and images into tensors. Works without torchvision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
)

from openvlt.errors import UserError, first_line
from openvlt.model.checkpoint_files import find_adapter_base
from openvlt.storage.atomic import write_json


class ImageOnlyProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video half, which needs torchvision.

    `ProcessorMixin` derives a processor's parts from the arguments of `__init__`: without a `video_processor`
    there, none is loaded, called or saved.
    """

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None
    ) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        super(Qwen2_5_VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template)


IMAGE_ONLY_TYPES = ("qwen2_vl", "qwen2_5_vl")  # same image tokens and same patch layout


def load_processor(
    path: str | Path, *, min_pixels: int | None = None, max_pixels: int | None = None
) -> ProcessorMixin:
    """Loads the processor of a model folder or hub id, padding on the left.

    `min_pixels` and `max_pixels` bound an image's area where they are given.
    Raises UserError when the folder holds no tokenizer, no image processor or no chat template.
    """
    try:
        processor = _load(path)
    except (OSError, ValueError, ImportError) as error:
        if not Path(path).exists():
            raise UserError(
                f"{path}: can't be fetched ({first_line(error)}); "
                "check the hub id or the network, or give a folder"
            ) from error
        raise UserError(
            f"{path}: no usable processor ({first_line(error)}); a model folder needs tokenizer.json, "
            "preprocessor_config.json (or processor_config.json) and a chat template: "
            "copy them from the base model"
        ) from error
    if processor.tokenizer.chat_template and not processor.chat_template:
        processor.chat_template = processor.tokenizer.chat_template
    if not processor.chat_template:
        raise UserError(
            f"{path}: the processor has no chat template; add chat_template.jinja from the base model"
        )
    processor.tokenizer.padding_side = "left"
    _bound_pixels(processor.image_processor, min_pixels, max_pixels)
    return processor


def _load(path: str | Path) -> ProcessorMixin:
    """The processor of a folder or hub id; of an adapter's folder what lies there, the rest from its base."""
    base = find_adapter_base(path)
    texts = path if base is None or (Path(path) / "tokenizer_config.json").is_file() else base
    images = path if base is None or _has_image_settings(Path(path)) else base
    if AutoConfig.from_pretrained(base or path).model_type in IMAGE_ONLY_TYPES:
        tokenizer = AutoTokenizer.from_pretrained(texts)
        if "<|image_pad|>" not in tokenizer.get_vocab():
            raise ValueError("its tokenizer is missing, or has no <|image_pad|>")
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(images)
        # of the processor's own files, chat_template.json included, as transformers reads them
        template = ProcessorMixin.get_processor_dict(texts)[0].get("chat_template")
        return ImageOnlyProcessor(
            image_processor, tokenizer, chat_template=template or tokenizer.chat_template
        )
    processor = AutoProcessor.from_pretrained(images)
    if not isinstance(processor, ProcessorMixin):
        raise ValueError(
            f"AutoProcessor gave a bare {type(processor).__name__}; torchvision may be missing for this model"
        )
    return processor


def _has_image_settings(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))


def _bound_pixels(image_processor: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    size = dict(getattr(image_processor, "size", None) or {})
    if min_pixels is None and max_pixels is None:
        return
    if "longest_edge" not in size:
        raise UserError(
            f"{type(image_processor).__name__} sizes images by {sorted(size)}, not by area; "
            "drop min_pixels and max_pixels"
        )
    low = size["shortest_edge"] if min_pixels is None else min_pixels
    high = size["longest_edge"] if max_pixels is None else max_pixels
    if low > high:
        low = high if min_pixels is None else low
    if low > high:
        raise UserError(f"min_pixels={low} is more than max_pixels={high}; swap or equalise them")
    image_processor.size = {"shortest_edge": low, "longest_edge": high}


def save_processor(processor: ProcessorMixin, folder: Path) -> None:
    """Writes the processor under its stock class name, so that plain transformers and vLLM load it.

    The stock class has a video half, which gets the settings of the images.
    """
    processor.save_pretrained(folder)
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        file = folder / name
        if file.is_file() and ImageOnlyProcessor.__name__ in (text := file.read_text()):
            file.write_text(text.replace(ImageOnlyProcessor.__name__, Qwen2_5_VLProcessor.__name__))
    if isinstance(processor, ImageOnlyProcessor):
        file = folder / "processor_config.json"
        settings = json.loads(file.read_text())
        frames = {**settings["image_processor"], "video_processor_type": "Qwen2VLVideoProcessor"}
        del frames["image_processor_type"]
        write_json(file, {**settings, "video_processor": frames})
