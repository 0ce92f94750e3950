"""One picture file to the pixels of one frame: upright, opaque, sRGB, 8 bit, never stretched. No torch."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from engine.errors import InvalidRequest
from engine.media.fit import BACKGROUND, BAR, Fit, centred, check_frame, crop_box, scaled_size
from engine.media.probe import DEFAULT_LIMITS, ImageFacts, probe_image


def load_image(path: Path, *, width: int, height: int, fit: Fit, field: str = "image", facts: ImageFacts | None = None) -> np.ndarray:
    """The picture in `path` as one frame: uint8 (height, width, 3), sRGB.

    Turned as its EXIF orientation says; transparent parts show white (`fit.BACKGROUND`); CMYK, palette, grey and 16-bit
    pictures become 8-bit RGB; an embedded colour profile is converted. Of an animation it is the first frame
    (`probe_image(path).frames` says whether there are more). `fit='crop'` fills the frame and cuts equally on both
    sides, 'pad' shows everything between black bars; the resampling is Lanczos.

    The file is probed in the limited process first, unless `facts` says what `probe_image` found. `field` names the request field in
    messages. Raises `InvalidRequest` for anything that is no such picture.
    """
    check_frame(width, height, fit)
    facts = facts or probe_image(path, field=field)
    try:
        with Image.open(path, formats=(facts.reader,)) as image:
            if image.width * image.height > DEFAULT_LIMITS.image_pixels:
                raise ValueError("it has changed")
            image.load()
            picture = to_rgb(_upright(image))
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, KeyError, Image.DecompressionBombError) as error:
        because = "" if isinstance(error, UnidentifiedImageError) else f" ({str(error)[:120]})"  # its text names a Python object
        raise InvalidRequest(field, f"the picture cannot be read{because}. Open it in an image program and save it "
                                    "as PNG or JPEG.") from error
    return np.array(_fitted(picture, (width, height), fit))


def _upright(image: Image.Image) -> Image.Image:
    """As the camera noted; notes that are broken are as good as none."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, IndexError, struct.error):
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` of any Pillow mode as 8-bit sRGB, transparency over `BACKGROUND`.

    Raises ValueError for modes that have no agreed brightness (floating point).
    """
    if image.mode == "F":
        raise ValueError("it holds floating-point values")
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255, not scale
        deep = np.asarray(image).astype(np.int64)
        image = Image.fromarray((deep.clip(0, 65535) / 257.0 + 0.5).astype(np.uint8))
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA") if image.mode != "LA" else image
        alpha = image.getchannel("A")
        image = image.convert("L" if image.mode == "LA" else "RGB")
    elif image.mode in ("P", "PA", "1", "RGBX"):
        image = image.convert("RGB")
    colours = _to_srgb(image)
    if alpha is None:
        return colours
    paper = Image.new("RGB", image.size, BACKGROUND)
    paper.paste(colours, mask=alpha)
    return paper


def _to_srgb(image: Image.Image) -> Image.Image:
    """Through the embedded profile if there is a usable one, else as if it were sRGB."""
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("L", "RGB", "CMYK", "LAB"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError):  # a broken or foreign profile: the numbers are the best guess
            pass
    return image.convert("RGB")


def _fitted(image: Image.Image, target: tuple[int, int], fit: Fit) -> Image.Image:
    if fit == "crop":
        return image.resize(target, Image.Resampling.LANCZOS, box=crop_box(image.size, target))
    inner = scaled_size(image.size, target, "pad")
    frame = Image.new("RGB", target, BAR)
    frame.paste(image.resize(inner, Image.Resampling.LANCZOS), (centred(inner[0], target[0]), centred(inner[1], target[1])))
    return frame
