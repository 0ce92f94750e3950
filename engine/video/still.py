"""Pictures as WebP: the poster of a clip, the film strip of a preview. No torch."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

POSTER_WIDTH = 512
POSTER_QUALITY = 82


def webp(image: Image.Image, quality: int) -> bytes:
    """`image` as WebP bytes."""
    out = io.BytesIO()
    image.save(out, "WEBP", quality=quality, method=2)
    return out.getvalue()


def poster(frame: np.ndarray) -> bytes:
    """A still for the gallery of uint8 (height, width, 3), at most `POSTER_WIDTH` wide, as WebP."""
    image = Image.fromarray(frame)
    if image.width > POSTER_WIDTH:
        image = image.resize((POSTER_WIDTH, round(image.height * POSTER_WIDTH / image.width)), Image.Resampling.LANCZOS)
    return webp(image, POSTER_QUALITY)
