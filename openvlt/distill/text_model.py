"""Text models as writers: loaded as a `VLM` whose processor takes no images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch

from openvlt.errors import UserError, first_line
from openvlt.model.load import VLM, check_finite_weights, check_vocabulary
from openvlt.model.weights import check_folder, load_weights


class TextProcessor:
    """A tokenizer with the interface of a processor, for text without images."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def apply_chat_template(self, messages: list[dict[str, Any]], **settings: Any) -> str:
        """The prompt as text."""
        plain = [{**each, "content": "".join(part["text"] for part in each["content"])} for each in messages]
        return self.tokenizer.apply_chat_template(plain, **settings)

    def __call__(self, text: list[str], images: None = None, **settings: Any) -> Any:
        settings |= {"padding_side": "left", "add_special_tokens": False, "return_attention_mask": True}
        return self.tokenizer(text, **settings)


@dataclass(frozen=True)
class TextModel:
    """A causal language model, a folder or hub id, that reads captions. `HFGenerator` samples from it."""

    path: str
    dtype: str = "bfloat16"
    device: str = "auto"

    def load(self) -> VLM:
        """Loads the model. Raises UserError if it can't be loaded or has no chat template."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        check_folder(self.path)
        device = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.path, trust_remote_code=False)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"model {self.path!r} has no usable tokenizer: {first_line(error)}; check the path or the "
                "hub id"
            ) from error
        if tokenizer.chat_template is None:
            raise UserError(f"model {self.path!r} has no chat template; take an instruction-tuned model")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model = load_weights(
            self.path, dtype=self.dtype, attn_implementation=None, architecture=AutoModelForCausalLM
        ).to(device)
        check_finite_weights(model, self.path)
        vlm = VLM(model, cast(Any, TextProcessor(tokenizer)), self.path)
        check_vocabulary(vlm)
        return vlm
