"""Text models as writers: loaded as a `VLM` whose processor takes no images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch

from openvlt.errors import UserError, first_line
from openvlt.model.hf_types import HFModel
from openvlt.model.load import VLM, check_model_path


class TextProcessor:
    """A tokenizer with the interface of a processor, for text without images."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def apply_chat_template(self, messages: list[dict[str, Any]], **settings: Any) -> str:
        """The prompt as text."""
        plain = [{**each, "content": "".join(part["text"] for part in each["content"])} for each in messages]
        return self.tokenizer.apply_chat_template(plain, **settings)

    def __call__(self, text: list[str], images: None = None, **settings: Any) -> Any:
        return self.tokenizer(
            text, padding_side="left", add_special_tokens=False, return_attention_mask=True, **settings
        )


@dataclass(frozen=True)
class TextModel:
    """A causal language model, a folder or hub id, that reads captions. `HFGenerator` samples from it."""

    path: str
    dtype: str = "bfloat16"
    device: str = "auto"

    def load(self) -> VLM:
        """Loads the model. Raises UserError if it can't be loaded or has no chat template."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        check_model_path(self.path)
        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.path)
            model = AutoModelForCausalLM.from_pretrained(self.path, dtype=self.dtype)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"model {self.path!r} can't be loaded: {first_line(error)}; check the path or the hub id"
            ) from error
        if tokenizer.chat_template is None:
            raise UserError(f"model {self.path!r} has no chat template; take an instruction-tuned model")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return VLM(cast(HFModel, model).to(device), cast(Any, TextProcessor(tokenizer)), self.path)
