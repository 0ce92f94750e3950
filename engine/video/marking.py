"""Saying in the file itself that a machine made it: IPTC's DigitalSourceType `trainedAlgorithmicMedia`, as XMP.

In an mp4 the packet is a `uuid` box after the last one (ISO 14496-12, 8.1; XMP specification part 3, 1.2.7.1), in a WebP its `XMP `
chunk. Both are written without touching a picture, and read back from the file as it lies on the disk before it is published.
IPTC Photo Metadata 2023.2, property `Iptc4xmpExt:DigitalSourceType`.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from PIL import Image

from engine.errors import OutputRejected
from engine.video.recipe import AI_SOURCE, comment

XMP_UUID = bytes.fromhex("BE7ACFCB97A942E89C71999491E3AFAC")
MOST_PACKET = 1 << 20
MOST_BOXES = 10_000


def xmp_packet(recipe: Mapping[str, Any]) -> bytes:
    """The XMP packet of a clip: what it is, what made it, when. No prompt, no name of a person."""
    said, created = escape(comment(recipe)), escape(str(recipe.get("created", "")))
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<Iptc4xmpExt:DigitalSourceType>{escape(source_type(recipe))}</Iptc4xmpExt:DigitalSourceType>"
        f"<xmp:CreatorTool>Sprocket {escape(str(recipe.get('app_version', '')))}</xmp:CreatorTool>"
        f"<xmp:CreateDate>{created}</xmp:CreateDate>"
        f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{said}</rdf:li></rdf:Alt></dc:description>'
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


def mark_video(path: Path, packet: bytes) -> None:
    """Adds the packet to a finished mp4. Raises OSError; nothing before the new box changes."""
    with path.open("ab") as file:
        file.write(struct.pack(">I4s", 8 + len(XMP_UUID) + len(packet), b"uuid") + XMP_UUID + packet)
        file.flush()
        os.fsync(file.fileno())


def mark_picture(webp: bytes, packet: bytes) -> bytes:
    """A WebP with the packet in it and the same compressed picture: a RIFF container with `VP8X`, the picture, `XMP ` (RFC 9649)."""
    if webp[:4] != b"RIFF" or webp[8:12] != b"WEBP" or webp[12:16] not in (b"VP8 ", b"VP8L"):
        raise ValueError("only a plain WebP picture can be marked")
    with Image.open(io.BytesIO(webp)) as image:
        width, height = image.size
    flags = 0x04 | (0x10 if webp[12:16] == b"VP8L" else 0)  # there is XMP; a lossless picture may have alpha
    extended = _chunk(b"VP8X", struct.pack("<I", flags) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))
    body = b"WEBP" + extended + webp[12:] + _chunk(b"XMP ", packet)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def video_xmp(path: Path) -> bytes | None:
    """The XMP packet of an mp4; None when it has none. Boxes are walked by their sizes, nothing is trusted."""
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 0
        for _ in range(MOST_BOXES):
            file.seek(at)
            head = file.read(32)
            if len(head) < 8:
                return None
            length, kind = struct.unpack(">I4s", head[:8])
            begin = 8
            if length == 1 and len(head) >= 16:
                length, begin = struct.unpack(">Q", head[8:16])[0], 16
            length = size - at if length == 0 else length
            if length < begin or at + length > size:
                return None
            if kind == b"uuid" and head[begin:begin + 16] == XMP_UUID and length <= MOST_PACKET:
                file.seek(at + begin + 16)
                return file.read(length - begin - 16)
            at += length
    return None


def picture_xmp(webp: bytes) -> bytes | None:
    """The XMP packet of a picture."""
    with Image.open(io.BytesIO(webp)) as image:
        image.load()
        packet = image.info.get("xmp")
    return packet if isinstance(packet, bytes) else None


def source_type(recipe: Mapping[str, Any]) -> str:
    """IPTC's word for where the picture comes from, as the recipe has it; where frames were moved, not generated, that of their video."""
    return str(recipe.get("digitalSourceType", AI_SOURCE))


def says_machine_made(packet: bytes | None, source: str = AI_SOURCE) -> bool:
    """Does this packet say what ours say?"""
    return packet is not None and source.encode() in packet


def check_marks(part: Path, poster: bytes, recipe: Mapping[str, Any]) -> None:
    """Reads both marks back from what will be published. Raises OutputRejected."""
    for what, packet in (("file", video_xmp(part)), ("poster", picture_xmp(poster) if poster else None)):
        if not says_machine_made(packet, source_type(recipe)):
            raise OutputRejected(f"the written {what} does not say that a machine made it, though it was told to. The disk may be failing; "
                                 "try again.")
