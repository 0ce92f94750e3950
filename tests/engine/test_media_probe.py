"""What strangers' files are is found out in a limited process, and each bad one is refused in words."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from engine.errors import InvalidRequest
from engine.media import probe as probing
from engine.media.inspector import SAMPLE, _packets
from engine.media.kinds import kind_of
from engine.media.probe import DEFAULT_LIMITS, INSPECTOR, ImageFacts, probe_image, probe_video
from tests.engine.media_files import counting, quarters, write_video

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits of the Linux kernel")


def png_header(width: int, height: int) -> bytes:
    """A picture that claims a size and holds nothing."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


def sound_only(path: Path, cover: bool = False) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=44100)
        if cover:
            picture: Any = container.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt, picture.disposition = 16, 16, "yuvj420p", Disposition.attached_pic
            container.mux(picture.encode(av.VideoFrame(16, 16, "yuvj420p")))
            container.mux(picture.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def many_streams(path: Path) -> None:
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("mpeg4", rate=10) for _ in range(DEFAULT_LIMITS.streams + 1)]
        for stream in streams:
            stream.width = stream.height = 16
            stream.pix_fmt = "yuv420p"
        for stream in streams:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
            container.mux(stream.encode())


def bomb(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=10)
        stream.width = stream.height = 8192
        stream.pix_fmt = "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(8192, 8192, "yuvj420p")))
        container.mux(stream.encode())


def cut(source: Path, size: float) -> bytes:
    data = source.read_bytes()
    return data[:int(len(data) * size)]


def tag_pq(stream: Any) -> None:
    stream.codec_context.color_trc = 16


SVG = b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
NO_PICTURE: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", "empty \\(0 bytes\\)"),
    "drawing.png": (SVG, "SVG drawing, which has no pixels.*export it as PNG"),
    "bare.png": (b"\xef\xbb\xbf  <svg></svg>", "SVG drawing"),
    "text.png": ("schöne Grüße".encode(), "a text, not a picture"),
    "noise.png": (b"\0\1\2\3" * 50, "no kind that is known"),
    "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC.*save it as PNG or JPEG"),
    "clip.png": (b"\0\0\0\x18ftypisom\0\0\0\0isomavc1", "mp4 or mov video, not a picture.*one of its frames"),
    "scan.png": (b"%PDF-1.7", "not read here.*save it as PNG"),
}
NO_VIDEO: dict[str, tuple[bytes, str]] = {
    "empty.mp4": (b"", "empty \\(0 bytes\\)"),
    "list.mp4": (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "a playlist, which only points at other files"),
    "join.mp4": (b"ffconcat version 1.0\nfile /etc/passwd\n", "a playlist"),
    "dash.mp4": (b"<?xml version='1.0'?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>", "a playlist"),
    "call.mp4": (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", "a playlist"),
    "text.mp4": (b"hello", "a text, not a video"),
    "photo.mp4": (png_header(8, 8), "PNG picture, not a video.*the picture to start from"),
    "loop.mp4": (b"GIF89a" + b"\0" * 20, "GIF picture, not a video"),
    "song.mp4": (b"ID3\4" + b"\0" * 20, "sound without a picture"),
    "old.mp4": (b"FLV\x01" + b"\0" * 20, "not read here.*H.264 mp4"),
    "head.mp4": (b"\0\0\0\x18ftypisom\0\0\0\0isomavc1", "cut off"),
    "short.mkv": (b"\x1aE\xdf\xa3" + b"\0" * 20, "damaged|cut off"),
}


@pytest.mark.parametrize("name", NO_PICTURE)
def test_no_picture(name: str, tmp_path: Path) -> None:
    content, message = NO_PICTURE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest, match=f"^image: .*{message}"):
        probe_image(tmp_path / name)


@pytest.mark.parametrize("name", NO_VIDEO)
def test_no_video(name: str, tmp_path: Path) -> None:
    content, message = NO_VIDEO[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest, match=f"^video: .*({message})"):
        probe_video(tmp_path / name)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    for look in (probe_image, probe_video):
        with pytest.raises(InvalidRequest, match=r"^first: .*no such file"):
            look(tmp_path / "none.mp4", field="first")
        with pytest.raises(InvalidRequest, match="not a file"):
            look(tmp_path)
        with pytest.raises(InvalidRequest, match="cannot be opened"):
            look(Path("a\0b"))
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.mp4")
        with pytest.raises(InvalidRequest, match="not a file"):  # and no waiting for somebody to write into it
            probe_video(tmp_path / "pipe.mp4")


def test_the_name_says_nothing(tmp_path: Path) -> None:
    Image.fromarray(quarters(96, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "-i $(id).mp4")
    assert probe_image(tmp_path / "-i $(id).mp4") == ImageFacts("PNG", 96, 64, 1, "RGB", False)


@pytest.mark.parametrize(("kind", "frames"), [("JPEG", 1), ("WEBP", 3), ("GIF", 3), ("TIFF", 1), ("BMP", 1), ("AVIF", 1)])
def test_pictures(kind: str, frames: int, tmp_path: Path) -> None:
    path, turned = tmp_path / "a", Image.Exif()
    turned[0x0112] = 6
    pictures = [Image.new("RGB", (40, 30), (shade, 0, 0)) for shade in (0, 90, 180)[:frames]]
    more: dict[str, Any] = {"save_all": True, "append_images": pictures[1:]} if frames > 1 else {}
    pictures[0].save(path, kind, **more, **({"exif": turned} if kind == "JPEG" else {}))
    facts = probe_image(path)
    assert (facts.reader, facts.frames) == (kind, frames)
    assert (facts.width, facts.height) == ((30, 40) if kind == "JPEG" else (40, 30))
    assert ("only the first one is used" in facts.note) == (frames > 1)


def test_pictures_that_are_too_much(tmp_path: Path) -> None:
    cases = {"bomb.png": (png_header(65_500, 65_500), "65,500 x 65,500 = 4290 million pixels; at most 40 million"),
             "strip.png": (png_header(20_000, 1), "damaged|cut off")}
    Image.new("L", (2100, 100)).save(tmp_path / "long.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.png")
    cases["cut.png"] = (cut(tmp_path / "whole.png", 0.6), "cut off.*copy or export it again")
    cases["noise.png"] = (b"\x89PNG\r\n\x1a\n" + b"\1" * 100, "damaged. Open it")
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidRequest, match=message) as caught:
            probe_image(tmp_path / name)
        assert str(tmp_path) not in str(caught.value)
    with pytest.raises(InvalidRequest, match="strip more than 20 times"):
        probe_image(tmp_path / "long.png")
    with pytest.raises(InvalidRequest, match="at most 0 MB"):
        probe_image(tmp_path / "whole.png", limits=replace(DEFAULT_LIMITS, image_bytes=1000))


def test_videos(tmp_path: Path) -> None:
    facts = probe_video(write_video(tmp_path / "a.mp4", counting(20)))
    assert (facts.reader, facts.frames, facts.width, facts.height, facts.fps) == ("mp4", 20, 64, 48, 30.0)
    assert (facts.codec, facts.pixel_format, facts.variable, facts.sound, facts.note) == ("h264", "yuv420p", False, False, "")
    assert facts.seconds == pytest.approx(20 / 30, abs=1e-3)
    assert facts.recipe is None
    turned = write_video(tmp_path / "b.mp4", counting(3, 96, 64), prepare=lambda stream: stream.set_display_rotation(90))
    assert (probe_video(turned).width, probe_video(turned).height) == (64, 96)
    uneven = write_video(tmp_path / "c.mkv", counting(4), times=[0, 0.1, 0.6, 0.7], fps=1000)
    facts = probe_video(uneven)
    assert facts.variable
    assert facts.fps < 10
    assert "varies" in facts.note


FASTSTART = {"movflags": "faststart"}
BAD_VIDEOS: dict[str, tuple[Callable[[Path], object], str]] = {
    "sound": (sound_only, "sound but no video"),
    "sound with a cover": (lambda path: sound_only(path, cover=True), "sound but no video"),
    "streams": (many_streams, "has 17 streams; at most 16"),
    "pq": (lambda path: write_video(path, counting(2), prepare=tag_pq), "HDR \\(PQ\\)"),
    "codec": (lambda path: write_video(path, counting(2), codec="mpeg2video", pixel_format="yuv420p"), "packed with 'mpeg2video'"),
    "bomb": (bomb, "8,192 x 8,192; at most 4,096 pixels a side"),
    "cut": (lambda path: (write_video(path, counting(20)), path.write_bytes(cut(path, 0.7))), "cut off"),
    "cut faststart": (lambda path: (write_video(path, [quarters(256, 256) ^ np.uint8(i) for i in range(20)], options=FASTSTART),
                                    path.write_bytes(cut(path, 0.5))), "cut off"),
    "garbage": (lambda path: (write_video(path, counting(20), options=FASTSTART), path.write_bytes(cut(path, 0.2) + b"\0" * 5000)),
                "damaged|cut off|no video"),
}


@pytest.mark.parametrize("name", BAD_VIDEOS)
def test_bad_videos(name: str, tmp_path: Path) -> None:
    make, message = BAD_VIDEOS[name]
    make(tmp_path / "a.mp4")
    with pytest.raises(InvalidRequest, match=message):
        probe_video(tmp_path / "a.mp4")


def test_limits_on_length(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", counting(20))
    for limits, message in ((replace(DEFAULT_LIMITS, video_frames=10), "more than 10 frames"),
                            (replace(DEFAULT_LIMITS, video_seconds=0.3), "lasts more than"),
                            (replace(DEFAULT_LIMITS, fps=20), "30 frames a second; at most 20"),
                            (replace(DEFAULT_LIMITS, video_bytes=1000), "at most 0 MB")):
        with pytest.raises(InvalidRequest, match=message):
            probe_video(path, limits=limits)


def test_a_sample_cut_off_among_reordered_frames_does_not_make_the_rate_vary() -> None:
    order = [shown for group in range(0, 6000, 4) for shown in (group + 4, group + 2, group + 1, group + 3)]  # as B-frames are stored
    packets = [SimpleNamespace(size=1, is_discard=False, is_corrupt=False, pts=pts, duration=1) for pts in (*range(-3, 1), *order)]
    looked = lambda packets: _packets(SimpleNamespace(demux=lambda stream: packets), SimpleNamespace(time_base=1 / 24),  # noqa: E731
                                      {"video_frames": 10**6, "video_seconds": 10**6})["variable"]
    assert [looked(packets[3 - more:SAMPLE + 900]) for more in range(4)] == [False] * 4
    packets[400].duration = 9
    for packet in packets[401:]:
        packet.pts += 8
    assert looked(packets) is True


# ---- the limited process

@pytest.fixture
def inspector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """inspector(code) puts a program in the inspector's place and gives a picture to look at."""
    def replaced(code: str) -> Path:
        (tmp_path / "fake.py").write_text(code)
        monkeypatch.setattr(probing, "INSPECTOR", tmp_path / "fake.py")
        (tmp_path / "a.png").write_bytes(png_header(8, 8))
        return tmp_path / "a.png"

    return replaced


def test_a_reader_that_never_ends_is_ended(inspector: Callable[[str], Path]) -> None:
    picture = inspector("import time; time.sleep(60)")
    with pytest.raises(InvalidRequest, match="still not read after 1 s"):
        probe_image(picture, limits=replace(DEFAULT_LIMITS, seconds=1))


@pytest.mark.parametrize("code", ["import os; os.abort()", "print('{')", "raise SystemExit(3)"])
def test_a_reader_that_is_brought_down(code: str, inspector: Callable[[str], Path]) -> None:
    with pytest.raises(InvalidRequest, match="brings its reader down"):
        probe_image(inspector(code))


def test_the_reader_sees_no_secrets(inspector: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    picture = inspector("import json, os; print(json.dumps({'refused': '', 'detail': ' '.join(os.environ.values())}))")
    with pytest.raises(InvalidRequest) as caught:
        probe_image(picture)
    assert "secret" not in str(caught.value)


@LINUX
def test_a_reader_that_wants_too_much_memory(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 4000)).save(tmp_path / "a.png")  # 64 MB once decoded
    assert probe_image(tmp_path / "a.png").width == 4000
    with pytest.raises(InvalidRequest, match=r"GB of memory|brings its reader down"):
        probe_image(tmp_path / "a.png", limits=replace(DEFAULT_LIMITS, memory=64 << 20))


@LINUX
@pytest.mark.parametrize(("wish", "answer"), [
    ("open(sys.argv[2], 'wb', buffering=0).write(b'x')", "File too large"),
    ("__import__('socket').create_connection(('127.0.0.1', int(sys.argv[1])), 2)", "PermissionError"),
    ("__import__('subprocess').run(['true'])", "PermissionError"),
    ("[open(sys.executable, 'rb') for _ in range(50)] and [open(f'/proc/self/{n}') for n in 'stat maps'.split()]", "Too many open"),
    ("[0] * (1 << 30)", "MemoryError"),
    ("exec('while True: pass')", ""),
])
def test_what_the_limits_hold_back(wish: str, answer: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = (f"import sys, importlib.util as u\nspec = u.spec_from_file_location('inspector', {str(INSPECTOR)!r})\n"
                "inspector = u.module_from_spec(spec)\nspec.loader.exec_module(inspector)\nimport socket, subprocess\n"
                f"inspector.limit(1, 1 << 30)\ninspector.shut_in()\nkept = {wish}\nprint('not held back')")
        done = subprocess.run([sys.executable, "-c", code, str(server.getsockname()[1]), str(tmp_path / "x")], capture_output=True,
                              text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert answer in done.stderr
    assert "not held back" not in done.stdout


def test_the_kinds_of_files() -> None:
    cases = {b"RIFF\0\0\0\0WEBPVP8 ": "WEBP", b"RIFF\0\0\0\0AVI LIST": "avi", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1": "AVIF",
             b"\0\0\0\x14ftypqt  \0\0\0\0qt  ": "mp4", b"\0\0\0\x08wide\0\0\0\0mdat": "mp4", b"MM\0*": "TIFF", b"": "", b"RIFF": ""}
    assert {head: kind_of(head).reader for head in cases} == cases
    assert json.loads(json.dumps(DEFAULT_LIMITS.codecs)) == list(DEFAULT_LIMITS.codecs)
