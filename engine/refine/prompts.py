"""The instructions a language model gets, one file a purpose in `prompts/`. All words are ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.refine.result import Ask

FOLDER = Path(__file__).with_name("prompts")
WORDS_A_TOKEN = 0.6
"""English words a T5 token, on the safe side."""
LEAST_WORDS, MOST_WORDS = 50, 100
"""What CogVideoX was trained on; less where the model reads less."""


def system_prompt(ask: Ask) -> str:
    """The instructions for `ask`, with the video model's own limit."""
    most = max(6, min(MOST_WORDS, int(ask.max_tokens * WORDS_A_TOKEN)))
    words = f"{LEAST_WORDS} to {most}" if most > LEAST_WORDS else f"at most {most}"
    text = (FOLDER / f"{ask.purpose}.md").read_text(encoding="utf-8")
    return text.format(words=words, tokens=ask.max_tokens).strip()


def messages_of(ask: Ask) -> list[dict[str, Any]]:
    """The conversation as an OpenAI-compatible server takes it. The wish stands alone in the user's turn."""
    said: Any = ask.text
    if ask.images:
        said = [{"type": "text", "text": ask.text}, *({"type": "image_url", "image_url": {"url": data_url(each)}} for each in ask.images)]
    return [{"role": "system", "content": system_prompt(ask)}, {"role": "user", "content": said}]


def data_url(image: bytes) -> str:
    """An image file as a data URL."""
    import base64

    kind = "png" if image[:4] == b"\x89PNG" else "webp" if image[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
