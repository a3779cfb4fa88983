"""Loading and saving processors, which turn chat and images into tensors. Works without torchvision."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoConfig, AutoProcessor, AutoTokenizer, ProcessorMixin
from transformers.image_utils import make_flat_list_of_images
from transformers.video_processing_utils import BaseVideoProcessor

from openvlt.errors import UserError, first_line
from openvlt.model.checkpoint_files import find_adapter_base
from openvlt.model.families import FAMILIES, UNKNOWN, Family
from openvlt.model.transformers_range import pil_processor_class
from openvlt.storage.atomic import write_json

_Base = ProcessorMixin if TYPE_CHECKING else object


class ImageOnlyProcessor(_Base):
    """A family's processor without its video half, which needs torchvision. See `image_only_class`.

    It is called with all images in reading order. What it returns can be cut into prompts
    (`Prompts.select`), and `mm_token_type_ids` marks the tokens that stand for image features with 1.
    """

    family: Family
    image_token: str
    image_token_ids: Any
    video_settings: dict[str, Any] | None = None  # of the model's folder, kept for the next one

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The parts that transformers loads, calls and saves."""
        return ["image_processor", "tokenizer"]

    def __call__(self, images: Any = None, text: Any = None, **settings: Any) -> Any:
        """The stock processor's tensors, without those that only its prompts needed."""
        if images and self.family.images_by_prompt:
            left = iter(make_flat_list_of_images(images))  # type: ignore[arg-type]
            images = [[next(left) for _ in range(sample.count(self.image_token))] for sample in text]
        batch = super().__call__(images=images, text=text, **settings)
        batch.pop("token_type_ids", None)
        batch.pop("batch_num_images", None)
        if self.family.pixels_by_prompt and torch.is_tensor(batch.get("pixel_values")):
            real = batch["pixel_attention_mask"].flatten(2).any(-1)
            for name in ("pixel_values", "pixel_attention_mask"):
                batch[name] = batch[name][real]
        ids, mark = batch["input_ids"], self.feature_token_id
        if torch.is_tensor(ids):
            batch["mm_token_type_ids"] = (ids == mark).long()
        else:
            batch["mm_token_type_ids"] = [[int(token == mark) for token in row] for row in ids]
        return batch

    def __reduce_ex__(self, protocol: Any) -> Any:
        """By its family: a class that was made at run time can't be found by its name."""
        return _restore_processor, (self.family, self.__dict__)

    @property
    def feature_token_id(self) -> int:
        """The token that stands for one image feature; in Gemma 3 `image_token_id` is another one."""
        return self.image_token_ids[0]


@functools.cache
def image_only_class(family: Family) -> Any:
    """The class of a family's processor without videos; it has the stock class's name, as saved files do."""
    stock = getattr(transformers, family.stand_in or family.processor)
    return type(family.processor, (ImageOnlyProcessor, stock), {"family": family})


def _restore_processor(family: Family, state: dict[str, Any]) -> Any:
    kind = image_only_class(family)
    processor = kind.__new__(kind)
    processor.__dict__.update(state)
    return processor


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
    _bound_pixels(processor, min_pixels, max_pixels)
    return processor


def _load(path: str | Path) -> ProcessorMixin:
    """The processor of a folder or hub id; of an adapter's folder what lies there, the rest from its base."""
    base = find_adapter_base(path)
    texts = path if base is None or (Path(path) / "tokenizer_config.json").is_file() else base
    images = path if base is None or _has_image_settings(Path(path)) else base
    family = FAMILIES.get(
        AutoConfig.from_pretrained(base or path, trust_remote_code=False).model_type, UNKNOWN
    )
    if family.processor:
        return _load_image_only(family, texts, images)
    processor = AutoProcessor.from_pretrained(images, trust_remote_code=False)
    if not isinstance(processor, ProcessorMixin):
        raise ValueError(
            f"AutoProcessor gave a bare {type(processor).__name__}; torchvision may be missing for this model"
        )
    return processor


def _load_image_only(family: Family, texts: str | Path, images: str | Path) -> ProcessorMixin:
    """The processor of a known family; tokenizer and chat template of `texts`, the rest of `images`."""
    tokenizer = AutoTokenizer.from_pretrained(texts, trust_remote_code=False)
    if family.marks[0] not in tokenizer.get_vocab():
        raise ValueError(f"its tokenizer is missing, or has no {family.marks[0]}")
    image_processor = pil_processor_class(family.image_processor).from_pretrained(images)
    # of the processor's own files, chat_template.json included, as transformers reads them
    template = ProcessorMixin.get_processor_dict(texts)[0].get("chat_template")
    settings = {
        **ProcessorMixin.get_processor_dict(images)[0],
        "chat_template": template or tokenizer.chat_template,
    }
    processor = image_only_class(family).from_args_and_dict([image_processor, tokenizer], settings)
    if family.video_processor:
        found, _ = BaseVideoProcessor.get_video_processor_dict(images)
        if found.get("video_processor_type") == family.video_processor:
            processor.video_settings = found
    return processor


def _has_image_settings(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))


def _bound_pixels(processor: Any, min_pixels: int | None, max_pixels: int | None) -> None:
    if min_pixels is None and max_pixels is None:
        return
    images = processor.image_processor
    size = dict(getattr(images, "size", None) or {})
    if not {"shortest_edge", "longest_edge"} <= size.keys():
        raise UserError(
            f"{type(images).__name__} sizes images by {sorted(size)}, not by area; "
            "drop min_pixels and max_pixels"
        )
    factor = getattr(processor, "family", UNKNOWN).area_factor
    low = size["shortest_edge"] // factor if min_pixels is None else min_pixels
    high = size["longest_edge"] // factor if max_pixels is None else max_pixels
    if low > high:
        low = high if min_pixels is None else low
    if low > high:
        raise UserError(f"min_pixels={low} is more than max_pixels={high}; swap or equalise them")
    images.size = {"shortest_edge": low * factor, "longest_edge": high * factor}


def save_processor(processor: ProcessorMixin, folder: Path) -> None:
    """Writes the processor under its stock class name, so that plain transformers and vLLM load it.

    A stock class with a video half gets the settings that the model's folder had for it, else those of the
    images.
    """
    processor.save_pretrained(folder)
    if isinstance(processor, ImageOnlyProcessor) and (name := processor.family.video_processor):
        file = folder / "processor_config.json"
        settings = json.loads(file.read_text())
        images = {
            key: value for key, value in settings["image_processor"].items() if key != "image_processor_type"
        }
        videos = processor.video_settings or {**images, "video_processor_type": name}
        write_json(file, {**settings, "video_processor": videos})
