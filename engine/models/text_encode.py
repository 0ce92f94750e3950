"""Words to the numbers the transformer reads: tokens, padded, through T5. One way for making clips and for training on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import T5TokenizerFast

from engine.errors import ModelInvalid
from engine.models.tokens import limit_tokens
from engine.spec import ModelSpec


def load_tokenizer(spec: ModelSpec) -> Any:
    """The checkpoint's own tokenizer. Raises `ModelInvalid`."""
    try:
        return T5TokenizerFast.from_pretrained(spec.path / "tokenizer", local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise ModelInvalid(f"{spec.path / 'tokenizer'} cannot be loaded ({type(error).__name__}: {str(error)[:200]}). "
                           "Fetch the model again.") from error


def token_ids(tokenizer: Any, text: str, spec: ModelSpec, field: str) -> Tensor:
    """int64 (1, max_text_tokens): `text`, its end mark, padding. The padding is attended to, as in training.

    Raises `InvalidRequest` (`field`) if there are more tokens than the model reads; nothing is cut off silently.
    """
    limit_tokens(field, len(tokenizer(text, add_special_tokens=True).input_ids), spec.name, spec.max_text_tokens)
    return tokenizer([text], padding="max_length", max_length=spec.max_text_tokens, truncation=True, add_special_tokens=True,
                     return_tensors="pt").input_ids


def encoded(encoder: Any, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows, max_text_tokens, text_width) of token `ids` on the encoder's device, in `dtype`."""
    return encoder(ids)[0].to(dtype)
