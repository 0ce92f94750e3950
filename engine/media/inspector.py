"""The limited process that looks at a stranger's file first. Run by `engine.media.probe`, imported by nobody.

    python -I inspector.py image|video PATH READER LIMITS-JSON   ->   one JSON object on standard output

It may use so much processor time, memory and wall time and no more, writes no file and reaches no network. The program is
one file on its own, so that it runs isolated from the environment and the working directory of its parent. Anything it
does not survive is an answer too: such a file is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

try:
    import resource
except ImportError:  # Windows: the parent's clock is the only limit there
    resource = None  # type: ignore[assignment]

Facts = dict[str, Any]
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SPARE_FILES = 16
MOST_BOXES = 1000
ATTACHED_PICTURE = 0x400  # AV_DISPOSITION_ATTACHED_PIC
MOST_PACKETS_TO_A_PICTURE = 500
TRUNCATED = ("truncated", "Truncated")
SAMPLE = 5000
"""Time stamps kept to tell whether the frame rate varies."""
REORDERED = 32
"""Frames that are stored later than ones shown after them, at most: where the sample is cut off, its end has holes."""


class Refused(Exception):
    """`key` is for the parent's table of messages, `detail` for the reader."""

    def __init__(self, key: str, detail: str = "") -> None:
        super().__init__(key)
        self.key, self.detail = key, detail


def limit(seconds: int, memory: int) -> None:
    """Bounds this process. Where the system lacks a limit, or an administrator set a tighter one, that one stands."""
    if hasattr(signal, "alarm"):
        signal.alarm(seconds + 5)  # the parent stops it earlier, unless the parent has died
    if resource is None:
        return
    for name, value in (("RLIMIT_CPU", seconds), ("RLIMIT_AS", memory), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
        with contextlib.suppress(ValueError, OSError, AttributeError):
            resource.setrlimit(getattr(resource, name), (value, value))


def shut_in() -> None:
    """From here on no connection, no other process and hardly a file: enough for Python's own late imports.

    The readers get an open file and no name, so they have nothing to follow a reference with; this is the second wall.
    """
    if sys.platform == "linux":  # a name space without a network, where the kernel lets anyone make one
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNET)
    if resource is not None:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (SPARE_FILES, SPARE_FILES))
    sys.addaudithook(_refuse_ways_out)


def _refuse_ways_out(event: str, _arguments: tuple[Any, ...]) -> None:
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")):
        raise PermissionError(f"{event} is not for the inspector")


# ---- pictures

def image(path: str, reader: str, limits: Mapping[str, Any]) -> Facts:
    """Header, then all pixels of the first frame if the header is within the limits."""
    from PIL import Image, ImageFile, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # our own limit is lower, and its message better
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        try:
            with Image.open(file, formats=(reader,)) as picture:
                facts: Facts = {"width": picture.width, "height": picture.height, "mode": picture.mode, "frames": 1,
                                "alpha": picture.has_transparency_data}
                if picture.width * picture.height > limits["image_pixels"]:
                    return facts
                picture.load()
                facts["alpha"] = picture.has_transparency_data
                with contextlib.suppress(Exception):  # notes beside the picture may be broken without it being so
                    if picture.getexif().get(0x0112, 1) in (5, 6, 7, 8):
                        facts |= {"width": picture.height, "height": picture.width}
                with contextlib.suppress(Exception):
                    facts["frames"] = int(getattr(picture, "n_frames", 1))
                return facts
        except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError) as error:
            detail = "" if isinstance(error, UnidentifiedImageError) else str(error)  # its text names a Python object
            raise Refused("cut" if any(word in detail for word in TRUNCATED) else "damaged", detail) from error


# ---- videos

def video(path: str, reader: str, limits: Mapping[str, Any]) -> Facts:
    """Streams, then every packet counted without decoding, then one picture decoded."""
    import av

    with open(path, "rb") as file:  # noqa: PTH123
        try:
            # FFmpeg gets a stream of bytes and no name: it could not follow a reference even if it wanted to.
            with av.open(file, format=reader, options={"protocol_whitelist": ""}, metadata_errors="replace") as container:
                return _video_facts(container, limits, cut=reader == "mp4" and cut_mp4(path))
        except av.error.FFmpegError as error:
            detail = error.strerror or str(error)  # without the path
            raise Refused("cut" if reader == "mp4" and cut_mp4(path) else "damaged", detail) from error


def _video_facts(container: Any, limits: Mapping[str, Any], cut: bool) -> Facts:
    streams = list(container.streams)
    if len(streams) > limits["streams"]:
        raise Refused("streams", str(len(streams)))
    pictures = [s for s in container.streams.video if not _is_cover(s)]
    if not pictures:
        raise Refused("sound" if container.streams.audio else "empty")
    stream = pictures[0]
    context = stream.codec_context
    if context is None:
        raise Refused("codec", "an unknown codec")
    tags = {key.lower(): value for key, value in container.metadata.items()}
    facts: Facts = {"codec": context.name, "pixel_format": context.pix_fmt or "", "stored_width": context.width,
                    "stored_height": context.height, "index": stream.index, "sound": bool(container.streams.audio),
                    "fps": float(stream.average_rate or stream.guessed_rate or 0), "frames": 0, "seconds": 0.0,
                    "variable": False, "width": context.width, "height": context.height, "transfer": 0,
                    "recipe": tags.get("sprocket", "")[:limits["recipe"] + 1] or None}
    if (facts["codec"] not in limits["codecs"] or context.width * context.height > limits["video_pixels"]
            or max(context.width, context.height) > limits["video_side"]):
        return facts
    facts |= _packets(container, stream, limits)
    measured = facts["frames"] / facts["seconds"] if facts["seconds"] > 0 else facts["fps"]
    if not 0.98 <= facts["fps"] / (measured or 1) <= 1.02:  # of recordings with varying rate the header is a guess
        facts["fps"] = measured
    if facts["frames"] == 0:
        raise Refused("cut" if stream.frames else "empty", "no picture data")
    if facts["frames"] > limits["video_frames"] or facts["seconds"] > limits["video_seconds"]:
        return facts
    if facts["frames"] < stream.frames and (cut or facts["broken"]):
        raise Refused("cut", f"{facts['frames']} of {stream.frames} frames are there")
    return facts | _first_picture(container, stream, limits)


def cut_mp4(path: str) -> bool:
    """Whether the last box of an mp4 says it is longer than the file, or the table of contents is not there."""
    size, at = os.path.getsize(path), 0  # noqa: PTH202
    names: set[bytes] = set()
    with open(path, "rb") as file:  # noqa: PTH123
        for _ in range(MOST_BOXES):
            if at + 8 > size:
                break
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            names.add(head[4:8])
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            at = size if length == 0 else at + max(8, length)
    return at > size or b"moov" not in names


def _is_cover(stream: Any) -> bool:
    """A song's cover is stored as a video of one picture."""
    return bool(int(getattr(stream, "disposition", 0) or 0) & ATTACHED_PICTURE)


def _packets(container: Any, stream: Any, limits: Mapping[str, Any]) -> Facts:
    """Frames, seconds and steadiness by the time stamps; stops where a limit is passed."""
    unit = float(stream.time_base or 0)
    first, last, count, broken = None, 0.0, 0, False
    stamps: list[float] = []
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or getattr(packet, "is_discard", False):
                continue
            count, broken = count + 1, broken or packet.is_corrupt
            if packet.pts is not None:
                now = packet.pts * unit
                first = now if first is None else min(first, now)
                last = max(last, now + (packet.duration or 0) * unit)
                if len(stamps) < SAMPLE:
                    stamps.append(now)
            if count > limits["video_frames"] or (first is not None and last - first > limits["video_seconds"]):
                break
    except Exception:  # noqa: BLE001  (PyAV's errors: the file ends in the middle of a packet)
        broken = True
    variable = _varies(sorted(stamps)[:-REORDERED] if len(stamps) == SAMPLE else sorted(stamps))
    return {"frames": count, "seconds": max(0.0, last - (first or 0.0)), "variable": variable, "broken": broken}


def _varies(stamps: Sequence[float]) -> bool:
    """Whether frames shown at these times, in order, are unevenly apart."""
    steps = [after - before for before, after in pairwise(stamps)]
    steps = steps[:-1] or steps  # the last one may be cut short
    return bool(steps) and max(steps) - min(steps) > 0.35 * (sum(steps) / len(steps))


def _first_picture(container: Any, stream: Any, limits: Mapping[str, Any]) -> Facts:
    """Decodes until there is one picture: size, format and position may differ from what the header says."""
    import struct

    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"max_pixels": str(limits["video_pixels"])}
    container.seek(0)
    frame = None
    for tried, packet in enumerate(container.demux(stream)):
        pictures = packet.decode()
        if pictures:
            frame = pictures[0]
            break
        if tried > MOST_PACKETS_TO_A_PICTURE:
            break
    if frame is None:
        raise Refused("damaged", "no picture can be decoded")
    aspect = float(stream.sample_aspect_ratio or 1)
    aspect = aspect if 0.1 <= aspect <= 10 else 1.0
    width, height = max(1, round(frame.width * aspect)), frame.height
    data = frame.side_data.get("DISPLAYMATRIX")
    turned = False
    if data is not None and len(bytes(data)) >= 36:
        a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
        turned = abs(a) + abs(d) < abs(b) + abs(c)
    return {"width": height if turned else width, "height": width if turned else height, "stored_width": frame.width,
            "stored_height": frame.height, "pixel_format": frame.format.name,
            "transfer": int(getattr(frame, "color_trc", 0) or 0)}


LOOKS: dict[str, Callable[[str, str, Mapping[str, Any]], Facts]] = {"image": image, "video": video}


def main(look: str, path: str, reader: str, limits_text: str) -> None:
    limits = json.loads(limits_text)
    limit(limits["seconds"], limits["memory"])
    shut_in()
    try:
        answer: Facts = {"facts": LOOKS[look](path, reader, limits)}
    except Refused as error:
        answer = {"refused": error.key, "detail": error.detail}
    except MemoryError:
        answer = {"refused": "memory", "detail": ""}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # nothing of the file's is worth an orderly end


if __name__ == "__main__":
    main(*sys.argv[1:5])
