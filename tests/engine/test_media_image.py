"""Pictures become frames: upright, opaque, sRGB, 8 bit, never stretched."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from engine.errors import InvalidRequest
from engine.media import image
from engine.media.image import load_image, to_rgb
from engine.media.probe import ImageFacts
from tests.engine.media_files import BLUE, GREEN, RED, WHITE, corners, quarters

BLACK = (0, 0, 0)


@pytest.fixture
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the limited process, which has its own tests and takes most of the time."""
    def facts(path: Path, field: str = "image") -> ImageFacts:
        return ImageFacts(path.suffix[1:].upper(), 0, 0, 1, "", False)

    monkeypatch.setattr(image, "probe_image", facts)


def test_crop_and_pad(tmp_path: Path) -> None:
    Image.fromarray(quarters(200, 100)).save(tmp_path / "a.png")
    frame = load_image(tmp_path / "a.png", width=100, height=100, fit="crop")
    assert (frame.shape, frame.dtype) == ((100, 100, 3), np.uint8)
    assert corners(frame) == [RED, GREEN, BLUE, WHITE]
    assert np.array_equal(frame, quarters(100, 100))  # cut in the middle, and no pixel between them is mixed
    frame = load_image(tmp_path / "a.png", width=100, height=100, fit="pad")
    assert corners(frame) == [BLACK] * 4
    assert corners(frame[25:75]) == [RED, GREEN, BLUE, WHITE]
    assert np.flatnonzero(frame.any(axis=(1, 2))).tolist() == list(range(25, 75))


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize(("orientation", "seen"), [
    (1, [RED, GREEN, BLUE, WHITE]), (2, [GREEN, RED, WHITE, BLUE]), (3, [WHITE, BLUE, GREEN, RED]), (4, [BLUE, WHITE, RED, GREEN]),
    (5, [RED, BLUE, GREEN, WHITE]), (6, [BLUE, RED, WHITE, GREEN]), (7, [WHITE, GREEN, BLUE, RED]), (8, [GREEN, WHITE, RED, BLUE]),
])
def test_cameras_that_were_turned(orientation: int, seen: list[tuple[int, int, int]], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(quarters(96, 64)).save(tmp_path / "a.jpeg", exif=exif, quality=95)
    width, height = (64, 96) if orientation > 4 else (96, 64)
    assert corners(load_image(tmp_path / "a.jpeg", width=width, height=height, fit="crop")) == seen


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("notes", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"noise"])
def test_broken_notes_of_a_camera_do_not_spoil_the_picture(notes: bytes, tmp_path: Path) -> None:
    Image.fromarray(quarters(96, 64)).save(tmp_path / "a.jpeg", exif=notes, quality=95)
    assert corners(load_image(tmp_path / "a.jpeg", width=96, height=64, fit="crop")) == [RED, GREEN, BLUE, WHITE]


def flat(picture: Image.Image) -> tuple[int, ...]:
    """The one colour of a picture."""
    pixels = np.asarray(to_rgb(picture))
    assert pixels.min(axis=(0, 1)).tolist() == pixels.max(axis=(0, 1)).tolist()
    return tuple(pixels[0, 0].tolist())


def test_every_mode_keeps_its_colour() -> None:
    size = (4, 4)
    assert flat(Image.new("L", size, 77)) == (77, 77, 77)
    assert flat(Image.new("1", size, 1)) == (255, 255, 255)
    assert flat(Image.new("RGB", size, RED).quantize(4)) == RED
    assert flat(Image.new("CMYK", size, (0, 255, 255, 0))) == (255, 0, 0)
    assert flat(Image.new("RGBA", size, (*RED, 255))) == RED
    assert flat(Image.new("LA", size, (77, 255))) == (77, 77, 77)
    assert flat(Image.fromarray(np.full(size, 77 * 257, np.uint16))) == (77, 77, 77)  # not clipped at 255
    assert flat(Image.fromarray(np.full(size, 65535, np.int32))) == (255, 255, 255)
    with pytest.raises(ValueError, match="floating-point"):
        to_rgb(Image.new("F", size, 0.5))


def test_what_is_transparent_is_white() -> None:
    size = (4, 4)
    assert flat(Image.new("RGBA", size, (*RED, 0))) == (255, 255, 255)
    assert flat(Image.new("LA", size, (0, 0))) == (255, 255, 255)
    half = flat(Image.new("RGBA", size, (0, 0, 0, 128)))
    assert half == (127, 127, 127)
    palette = Image.new("P", size, 1)
    palette.putpalette([*RED, *GREEN])
    palette.info["transparency"] = 1
    assert flat(palette) == (255, 255, 255)
    keyed = Image.new("RGB", size, RED)
    keyed.info["transparency"] = RED
    assert flat(keyed) == (255, 255, 255)


def test_a_profile_is_obeyed_and_a_broken_one_ignored() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    entries = {profile[at:at + 4]: at for at in range(132, 132 + 12 * struct.unpack(">I", profile[128:132])[0], 12)}
    swapped = bytearray(profile)  # a screen whose red is our blue
    for one, other in ((b"rXYZ", b"bXYZ"), (b"bXYZ", b"rXYZ")):
        swapped[entries[one] + 4:entries[one] + 12] = profile[entries[other] + 4:entries[other] + 12]
    picture = Image.new("RGB", (4, 4), (200, 30, 10))
    for content, seen in ((profile, (200, 30, 10)), (bytes(swapped), (10, 30, 200)), (b"no profile", (200, 30, 10))):
        picture.info["icc_profile"] = content
        assert flat(picture) == pytest.approx(seen, abs=2)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert tuple(load_image(tmp_path / "a.gif", width=16, height=16, fit="crop")[8, 8]) == RED


@pytest.mark.parametrize(("wish", "field"), [({"fit": "stretch"}, "fit"), ({"width": 0}, "width"), ({"height": -3}, "height")])
def test_impossible_wishes(wish: dict[str, Any], field: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        load_image(tmp_path / "a.png", **({"width": 8, "height": 8, "fit": "crop"} | wish))
    assert caught.value.field == field


@pytest.mark.usefixtures("unprobed")
def test_a_file_that_changes_after_the_probe_meets_the_limits_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"<svg></svg>")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        load_image(tmp_path / "a.png", width=8, height=8, fit="crop", field="first")
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(image, "DEFAULT_LIMITS", image.DEFAULT_LIMITS.__class__(image_pixels=64 * 64 - 1))
    with pytest.raises(InvalidRequest, match="it has changed"):
        load_image(tmp_path / "a.png", width=8, height=8, fit="crop")
