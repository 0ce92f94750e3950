"""What a picture or video from outside really is, before this process decodes a byte of it. No torch, no PyAV.

    size and first bytes (here) -> the limited process (`inspector.py`) -> limits on what it found (here) -> frozen facts

Nothing is believed from a file's name. The kind its first bytes show decides the one reader that may open it, so a playlist
called clip.mp4 is never followed.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import InvalidRequest
from engine.media.kinds import HEAD_BYTES, Kind, kind_of

INSPECTOR = Path(__file__).with_name("inspector.py")
KEPT_ENVIRONMENT = ("SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Of the environment the inspector sees no more: no tokens, no settings."""
PQ, HLG = 16, 18
"""AVColorTransferCharacteristic of pictures with more light than a screen's white. HLG is made to be shown as it is on common
screens too; PQ is not, and would come out grey."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most a file may be. Sizes in bytes and pixels, times in seconds."""

    image_bytes: int = 100 << 20
    image_pixels: int = 40_000_000
    video_bytes: int = 1 << 30
    video_pixels: int = 4096 * 2304
    video_side: int = 4096
    video_frames: int = 36_000
    video_seconds: float = 600.0
    fps: float = 240.0
    streams: int = 16
    aspect: float = 20.0
    """Longer side to shorter side."""
    recipe: int = 256 * 1024
    codecs: tuple[str, ...] = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "prores", "dnxhd", "ffv1")
    seconds: int = 20
    """Processor time and wall time of the inspector."""
    memory: int = 3 << 30
    """Address space of the inspector."""


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One picture, all of whose pixels could be decoded."""

    reader: str
    """The Pillow format: 'PNG', 'JPEG', ..."""
    width: int
    """Upright, as its EXIF orientation says."""
    height: int
    frames: int
    mode: str
    """Pillow's name of the pixels as stored, such as 'RGB', 'CMYK', 'P', 'I;16'."""
    alpha: bool

    @property
    def note(self) -> str:
        """What the user should know about how it is used; empty if nothing."""
        if self.frames > 1:
            return f"This picture is an animation of {self.frames:,} frames; only the first one is used."
        return ""


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """One video whose first picture could be decoded."""

    reader: str
    """The FFmpeg demuxer: 'mp4', 'matroska' or 'avi'."""
    stream: int
    """Which stream of the file is the picture."""
    width: int
    """As it is to be seen: upright, with square pixels."""
    height: int
    frames: int
    """Counted by their packets; the decoder may make a few less of a damaged file."""
    fps: float
    """The average; 0 where the file does not say."""
    seconds: float
    codec: str
    pixel_format: str
    variable: bool
    """The time from frame to frame varies, as in screen and phone recordings."""
    sound: bool
    hlg: bool
    """High dynamic range as phones record it; read as common screens show it, a little paler."""
    recipe: str | None
    """Sprocket's own metadata, if it carries any: a text nobody has checked yet, at most one over the limit long."""

    @property
    def note(self) -> str:
        """What the user should know about how it is used; empty if nothing."""
        notes = []
        if self.variable:
            notes.append("The frame rate of this video varies; it is sampled by its clock.")
        if self.hlg:
            notes.append("This video is HDR (HLG); its colours may look a little pale.")
        return " ".join(notes)


def probe_image(path: Path, *, field: str = "image", limits: Limits = DEFAULT_LIMITS) -> ImageFacts:
    """Facts of the picture in `path`, found in a limited process; takes about half a second.

    Raises `InvalidRequest` (`field`) that says what the file is instead, what is wrong with it or which limit it breaks.
    """
    kind = _kind(path, field, "image", limits.image_bytes)
    found = _inspect("image", path, kind, limits, field)
    width, height = found["width"], found["height"]
    if width * height > limits.image_pixels:
        raise InvalidRequest(field, f"the picture has {width:,} x {height:,} = {width * height / 1e6:.0f} million pixels; at most "
                                    f"{limits.image_pixels / 1e6:.0f} million are read. Save it smaller.")
    _check_aspect(field, "picture", width, height, limits)
    return ImageFacts(kind.reader, width, height, found["frames"], found["mode"], found["alpha"])


def probe_video(path: Path, *, field: str = "video", limits: Limits = DEFAULT_LIMITS) -> VideoFacts:
    """Facts of the video in `path`, found in a limited process; takes about half a second.

    Raises `InvalidRequest` (`field`) that says what the file is instead, what is wrong with it or which limit it breaks.
    """
    kind = _kind(path, field, "video", limits.video_bytes)
    found = _inspect("video", path, kind, limits, field)
    _check_video(field, found, limits)
    return VideoFacts(kind.reader, found["index"], found["width"], found["height"], found["frames"], found["fps"],
                      found["seconds"], found["codec"], found["pixel_format"], found["variable"], found["sound"],
                      found["transfer"] == HLG, found["recipe"])


def _check_video(field: str, found: dict[str, Any], limits: Limits) -> None:
    if found["codec"] not in limits.codecs:
        raise InvalidRequest(field, f"the video is packed with {found['codec'][:40]!r}, which is not read here. Convert it to an "
                                    "H.264 mp4.")
    width, height = found["stored_width"], found["stored_height"]
    if width * height > limits.video_pixels or max(width, height) > limits.video_side:
        raise InvalidRequest(field, f"the video is {width:,} x {height:,}; at most {limits.video_side:,} pixels a side and "
                                    f"{limits.video_pixels / 1e6:.1f} million in all are read. Scale it down first.")
    _check_aspect(field, "video", found["width"], found["height"], limits)
    if found["transfer"] == PQ:
        raise InvalidRequest(field, "the video is HDR (PQ), whose colours would come out grey. Convert it to SDR (BT.709) first.")
    if found["frames"] > limits.video_frames:
        raise InvalidRequest(field, f"the video has more than {limits.video_frames:,} frames. Cut out the part you want.")
    if found["seconds"] > limits.video_seconds:
        raise InvalidRequest(field, f"the video lasts more than {limits.video_seconds / 60:g} minutes. Cut out the part you want.")
    if found["fps"] > limits.fps and found["frames"] > 1:
        raise InvalidRequest(field, f"the video runs at {found['fps']:,.0f} frames a second; at most {limits.fps:g} are read. "
                                    "Convert it to 60 or fewer.")


def _check_aspect(field: str, what: str, width: int, height: int, limits: Limits) -> None:
    if max(width, height) > limits.aspect * min(width, height):
        raise InvalidRequest(field, f"the {what} is {width:,} x {height:,}, a strip more than {limits.aspect:g} times as long as "
                                    "wide. Cut it to a more even shape.")


def _kind(path: Path, field: str, family: str, most_bytes: int) -> Kind:
    """What the file is, by its first bytes; only an ordinary file of the family and of no more bytes gets through."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
            raise InvalidRequest(field, "this is not a file. Choose a file.")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else f"the file cannot be opened ({error})"
        raise InvalidRequest(field, f"{reason}. Choose another file.") from error
    if status.st_size == 0:
        raise InvalidRequest(field, "the file is empty (0 bytes). It was probably not copied to its end; copy it again.")
    kind = kind_of(head)
    if kind.family != family:
        raise InvalidRequest(field, f"the file is {kind.words}, not a {'picture' if family == 'image' else 'video'}. "
                                    f"{_way_out(kind, family)}")
    if status.st_size > most_bytes:
        raise InvalidRequest(field, f"the file has {status.st_size / 1e6:,.0f} MB; at most {most_bytes / 1e6:,.0f} MB are read. "
                                    f"{'Save it smaller' if family == 'image' else 'Cut or compress it'} first.")
    return kind


def _way_out(kind: Kind, wanted: str) -> str:
    if kind.family == "image":
        return "Give it as the picture to start from, or choose an mp4, mov, mkv, webm or avi video."
    if kind.family == "video":
        return "Save one of its frames as PNG, or give it as the video."
    return kind.way_out or ("Choose a PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF picture." if wanted == "image" else
                            "Choose an mp4, mov, mkv, webm or avi video.")


def _inspect(look: str, path: Path, kind: Kind, limits: Limits, field: str) -> dict[str, Any]:
    """The inspector's facts. Raises `InvalidRequest` for its refusal, its silence and its death."""
    command = [sys.executable, "-I", str(INSPECTOR), look, str(path.absolute()), kind.reader, json.dumps(asdict(limits))]
    environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    what = "picture" if look == "image" else "video"
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, timeout=limits.seconds, check=False,
                              creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0))
    except subprocess.TimeoutExpired as error:
        raise InvalidRequest(field, f"the {what} was still not read after {limits.seconds} s. {_again(look)}") from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise InvalidRequest(field, f"the {what} brings its reader down, so it is damaged or made to do harm. "
                                    f"{_again(look)}") from error
    if "refused" in answer:
        raise InvalidRequest(field, _refusal(answer["refused"], str(answer["detail"])[:120], what, look, limits))
    return answer["facts"]


def _refusal(key: str, detail: str, what: str, look: str, limits: Limits) -> str:
    because = f" ({detail})" if detail else ""
    return {
        "cut": f"the {what} is cut off{because}. It was probably not copied to its end; copy or export it again.",
        "empty": "the file has no video in it. Choose a file with a picture, such as an mp4.",
        "sound": "the file has sound but no video in it. Choose a file with a picture in it, such as an mp4.",
        "streams": f"the file has {detail} streams; at most {limits.streams} are read. Save only picture and sound.",
        "codec": "the video is packed in a way that is not read here. Convert it to an H.264 mp4.",
        "memory": f"reading the {what} takes more than {limits.memory / 1e9:.0f} GB of memory. Save it smaller.",
    }.get(key, f"the {what} is damaged{because}. {_again(look)}")


def _again(look: str) -> str:
    return ("Open it in an image program and save it as PNG or JPEG." if look == "image" else
            "Play it to its end to see whether it is whole, and convert it to an H.264 mp4.")
