"""A recording as people have them: subtitles, a font, a cover, sound and frames whose distance varies, all in one file."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from engine.media.probe import probe_video
from tests.engine.test_interpolate_run import CLIP, added, beep_begins, done, frames_of, planned, psnr

TIMES = (0.0, 0.1, 0.45, 0.55, 0.7, 0.95, 1.0)
"""Seconds of the pictures."""
WORDS = "1\n00:00:00,200 --> 00:00:00,600\nhello\n\n2\n00:00:00,700 --> 00:00:01,000\nand goodbye\n\n"


def recording(folder: Path) -> Path:
    """Matroska, and its picture is not the first stream."""
    path, words = folder / "all.mkv", folder / "words.srt"
    words.write_text(WORDS)
    with av.open(str(path), "w") as container, av.open(str(words)) as spoken:
        subtitle: Any = container.add_stream_from_template(spoken.streams[0])
        heard: Any = container.add_stream("aac", rate=16000)
        heard.layout = "mono"
        picture: Any = container.add_stream("libx264", rate=20, options={"crf": "1", "bf": "0"})
        picture.width, picture.height, picture.pix_fmt, picture.time_base = 192, 128, "yuv420p", Fraction(1, 1000)
        picture.codec_context.time_base = Fraction(1, 1000)
        container.add_attachment("font.ttf", "application/x-truetype-font", bytes(300))
        container.add_attachment("cover.png", "image/png", bytes(300))
        for packet in spoken.demux():
            if packet.dts is not None:
                packet.stream = subtitle
                container.mux(packet)
        for number, seconds in enumerate(TIMES):
            frame = av.VideoFrame.from_ndarray(CLIP[number], format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 1000), round(seconds * 1000)
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        clock = np.arange(16000) / 16000
        wave = (np.sin(clock * 2 * np.pi * 440) * (clock >= 0.5) * 0.6).astype(np.float32)
        for begin in range(0, len(wave) - 1023, 1024):
            part = av.AudioFrame.from_ndarray(wave[None, begin:begin + 1024], format="fltp", layout="mono")
            part.sample_rate, part.pts, part.time_base = 16000, begin, Fraction(1, 16000)
            container.mux(heard.encode(part))
        container.mux(heard.encode())
    return path


@pytest.fixture
def video(tmp_path: Path) -> str:
    return added(tmp_path, recording(tmp_path))


def test_what_is_no_picture_is_no_hindrance(tmp_path: Path, video: str) -> None:
    facts = probe_video(tmp_path / video)
    assert (facts.frames, facts.variable, facts.sound, facts.codec) == (len(TIMES), True, True, "h264")
    done(planned(tmp_path, video, fps=40), tmp_path)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sorted(stream.type for stream in container.streams) == ["audio", "video"]
    made, given = frames_of(tmp_path / "out.mp4"), frames_of(tmp_path / video)
    for seconds, frame in zip(TIMES, given, strict=True):
        assert psnr(made[round(40 * seconds)], frame) >= 40  # every picture is where its clock says
    assert probe_video(tmp_path / "out.mp4").variable is False


def test_time_and_sound_are_kept_although_the_rate_varies(tmp_path: Path, video: str) -> None:
    done(planned(tmp_path, video, fps=40), tmp_path)
    facts = probe_video(tmp_path / "out.mp4")
    assert facts.sound and facts.seconds == pytest.approx(TIMES[-1], abs=0.1)
    before, after = beep_begins(tmp_path / video), beep_begins(tmp_path / "out.mp4")
    assert before == pytest.approx(0.5, abs=0.07) and after == pytest.approx(before, abs=0.03)
    with av.open(str(tmp_path / "out.mp4")) as container:
        times = [float(frame.time) for frame in container.decode(video=0)]
    assert {round(b - a, 4) for a, b in pairwise(times)} == {0.025}
