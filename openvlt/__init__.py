"""Teaches vision-language models to reason: cycles of SFT on verified traces and of GRPO."""

__version__ = "0.1.0"
