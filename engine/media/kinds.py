"""What a file is, told from its first bytes and never from its name. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HEAD_BYTES = 4096
"""How much of a file's beginning `kind_of` wants to see."""

_WAY_OUT = "Open it in an image program and save it as PNG or JPEG."
_CONVERT = "Convert it to an H.264 mp4."


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file."""

    words: str
    """With its article, for messages: 'a PNG picture'."""
    family: Literal["image", "video", "other"]
    reader: str = ""
    """The Pillow format, or the FFmpeg demuxer, that alone may open it. Empty: refused."""
    way_out: str = ""


PNG = Kind("a PNG picture", "image", "PNG")
JPEG = Kind("a JPEG picture", "image", "JPEG")
WEBP = Kind("a WebP picture", "image", "WEBP")
GIF = Kind("a GIF picture", "image", "GIF")
BMP = Kind("a BMP picture", "image", "BMP")
TIFF = Kind("a TIFF picture", "image", "TIFF")
AVIF = Kind("an AVIF picture", "image", "AVIF")
MP4 = Kind("an mp4 or mov video", "video", "mp4")
MATROSKA = Kind("a Matroska or WebM video", "video", "matroska")
AVI = Kind("an AVI video", "video", "avi")
OLD_VIDEO = Kind("a video of a kind that is not read here (mp4, mov, mkv, webm and avi are)", "other", way_out=_CONVERT)
HEIC = Kind("an HEIC picture, which is not read here", "other", way_out=_WAY_OUT)
SVG = Kind("an SVG drawing, which has no pixels", "other", way_out="Open it in a drawing program and export it as PNG.")
OTHER_IMAGE = Kind("a picture of a kind that is not read here (PNG, JPEG, WebP, GIF, BMP, TIFF and AVIF are)", "other",
                   way_out=_WAY_OUT)
PLAYLIST = Kind("a playlist, which only points at other files", "other", way_out="Give the video file itself.")
AUDIO = Kind("sound without a picture", "other", way_out="Choose a file with a picture in it.")
TEXT = Kind("a text", "other")
UNKNOWN = Kind("of no kind that is known here", "other")

_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"\x89PNG\r\n\x1a\n", PNG), (b"\xff\xd8\xff", JPEG), (b"GIF87a", GIF), (b"GIF89a", GIF), (b"BM", BMP),
    (b"II*\0", TIFF), (b"MM\0*", TIFF), (b"\x1aE\xdf\xa3", MATROSKA), (b"FLV\x01", OLD_VIDEO), (b"OggS", OLD_VIDEO),
    (b"\x30\x26\xb2\x75", OLD_VIDEO), (b"\0\0\x01\xba", OLD_VIDEO), (b"\0\0\x01\xb3", OLD_VIDEO), (b"8BPS", OTHER_IMAGE),
    (b"\0\0\x01\0", OTHER_IMAGE), (b"\xff\x0a", OTHER_IMAGE), (b"\0\0\0\x0cJXL ", OTHER_IMAGE), (b"\0\0\0\x0cjP  ", OTHER_IMAGE),
    (b"%!PS", OTHER_IMAGE), (b"%PDF", OTHER_IMAGE), (b"ID3", AUDIO), (b"fLaC", AUDIO), (b"\xff\xfb", AUDIO),
)
_PLAYLISTS = (b"#extm3u", b"ffconcat", b"[playlist]", b"v=0", b"<mpd", b"<smil", b"<asx")


def kind_of(head: bytes) -> Kind:
    """The kind of the file that begins with `head` (its first `HEAD_BYTES`, or all of it)."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF":
        return {b"WEBP": WEBP, b"AVI ": AVI, b"WAVE": AUDIO}.get(head[8:12], UNKNOWN)
    if head[4:8] == b"ftyp":
        return _by_brands(head)
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip"):
        return MP4  # QuickTime before 2001
    if head[:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G":
        return OLD_VIDEO  # MPEG transport stream
    return _text(head)


def _by_brands(head: bytes) -> Kind:
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at:at + 4] for at in range(16, size - 3, 4))}
    if brands & {b"avif", b"avis"}:
        return AVIF
    if brands & {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"} and not brands & {b"isom", b"mp41", b"mp42"}:
        return HEIC
    return MP4


def _text(head: bytes) -> Kind:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not text or b"\0" in text:
        return UNKNOWN
    xml = text.startswith((b"<?xml", b"<!--", b"<!doctype"))
    if text.startswith(b"<svg") or (xml and b"<svg" in text):
        return SVG
    if text.startswith(_PLAYLISTS) or (xml and any(tag in text for tag in (b"<mpd", b"<smil", b"<asx"))):
        return PLAYLIST
    try:
        text[:-3].decode()  # the last character may be cut
    except UnicodeDecodeError:
        return UNKNOWN
    return TEXT
