"""Pictures and videos a fake studio shows: a ball that bounces, small and real."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": "#e5483d",
    "yellow": "#f5c542",
    "blue": "#4079e8",
    "purple": "#9358d6",
    "orange": "#f08a2c",
    "green": "#3fa35b",
    "pink": "#ec6fa6",
}
GROUNDS = {
    "night": ("#0c1230", "#1d2550"),
    "sea": ("#86c5ea", "#2f78ac"),
    "desert": ("#f7d9a0", "#d9a75b"),
    "snow": ("#dcecf7", "#f7fbff"),
    "studio": ("#d8d4ce", "#bdb8b0"),
    "meadow": ("#a8d8f0", "#5da84f"),
}


def picture(prompt: str, at: float, width: int = 192, height: int = 128) -> Image.Image:
    """One frame of the pretended video; `at` 0..1."""
    sky, ground = next((pair for word, pair in GROUNDS.items() if word in prompt), GROUNDS["meadow"])
    image = Image.new("RGB", (width, height), sky)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, height * 0.68, width, height), fill=ground)
    x, y, r = width * (0.2 + 0.6 * at), height * (0.62 - 0.36 * abs(np.sin(at * 9))), height * 0.14
    draw.ellipse((x - r, y - r, x + r, y + r), fill=next((c for w, c in COLOURS.items() if w in prompt), "#e5483d"))
    return image


def write_video(path: Path, prompt: str, frames: int, recipe: Mapping[str, Any]) -> None:
    import av

    with av.open(str(path), "w", format="mp4", options={"movflags": "use_metadata_tags+faststart"}) as container:
        container.metadata["sprocket"] = json.dumps(recipe)
        stream = container.add_stream("libx264", rate=Fraction(8))
        stream.width, stream.height, stream.pix_fmt = 192, 128, "yuv420p"
        for i in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_image(picture(prompt, i / frames))))
        container.mux(stream.encode())
