"""Counting prompt tokens before a job is accepted, without torch or transformers (the run counts again, with the real one)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.errors import InvalidRequest, ModelInvalid
from engine.interpolate.planning import texts
from engine.plan import Plan
from engine.spec import ModelSpec


def check_tokens(plan: Plan) -> None:
    """Raises `InvalidRequest` if a text of `plan` has more tokens than the model reads, `ModelInvalid` for a broken file.

    Says nothing where the checkpoint has no tokenizer.json (older ones carry a sentencepiece file only).
    """
    for field, text in (*(("prompt", text) for text in texts(plan)), ("negative", plan.negative if plan.guided else "")):
        count = count_tokens(plan.spec, text)
        if count is not None:
            limit_tokens(field, count, plan.spec.name, plan.spec.max_text_tokens)


def count_tokens(spec: ModelSpec, text: str) -> int | None:
    """Tokens of `text`, its end mark included; None where the checkpoint has no tokenizer.json. Raises `ModelInvalid`."""
    file = spec.path / "tokenizer" / "tokenizer.json"
    if not file.is_file():
        return None
    return len(_tokenizer(file, file.stat().st_mtime_ns).encode(text).ids)


def limit_tokens(field: str, count: int, model: str, limit: int) -> None:
    """Raises `InvalidRequest` for `count` above `limit`: a text is never cut off silently."""
    if count > limit:
        raise InvalidRequest(field, f"has {count} tokens; {model} reads {limit}. Shorten it: a token is a word or a part "
                                    "of one.")


def counter(model: Path) -> Callable[[str], int] | None:
    """Counts tokens as the text encoder of the checkpoint at `model` does; None where that needs more than a tokenizer.json.

    Raises `ModelInvalid` for a broken file.
    """
    file = model / "tokenizer" / "tokenizer.json"
    if not file.is_file():
        return None
    tokenizer = _tokenizer(file, file.stat().st_mtime_ns)
    return lambda text: len(tokenizer.encode(text).ids)


@lru_cache(maxsize=4)
def _tokenizer(file: Path, _changed: int) -> Any:
    from tokenizers import Tokenizer  # 0.1 s

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library has no narrower class
        raise ModelInvalid(f"{file} cannot be read ({str(error)[:120]}). Fetch the model again.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
