"""One interpolation from file to file: given frames, resuming, cuts, clocks, sound, and what it refuses."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

import engine.interpolate.run as running
from engine.errors import Cancelled, InvalidRequest, StorageBlocked
from engine.events import ClipWritten, CutsFound, Event, Resumed, SoundLeftOut, Stage, StageStarted
from engine.inputs import input_name
from engine.interpolate.plan import InterpolatePlan, plan_interpolation
from engine.interpolate.recipe import ENHANCED, build_interpolation_recipe
from engine.interpolate.request import InterpolateRequest
from engine.interpolate.segments import SegmentWriter
from engine.interpolate.sound import Sound, Unheard
from engine.media.clip import iter_frames
from engine.media.fit import scaled_size
from engine.media.probe import probe_video
from engine.video.marking import picture_xmp, says_machine_made, video_xmp
from engine.video.recipe import AI_SOURCE, read_recipe
from tests.engine.media_files import write_video
from training.pocket import world

ROOT = Path(__file__).resolve().parents[2]
CLIP = world.render(world.scene_at(7, 3, "held-out"), 9).video
OTHER = world.render(world.scene_at(7, 0, "held-out"), 9).video
RECIPE = {"sprocket": 1, "kind": "interpolate", "app_version": "test", "request": {}}


def added(folder: Path, path: Path) -> str:
    name = input_name(path, path.suffix[1:])
    path.rename(folder / name)
    return name


@pytest.fixture
def video(tmp_path: Path) -> str:
    return added(tmp_path, write_video(tmp_path / "clip.mp4", CLIP, fps=8))


def planned(folder: Path, name: str, **wish: Any) -> InterpolatePlan:
    return plan_interpolation(InterpolateRequest(video=name, **wish), probe_video(folder / name))


def done(plan: InterpolatePlan, folder: Path, *, work: str = "work", cancelled: Callable[[], bool] = lambda: False) -> list[Event]:
    return list(running.run(plan, part=folder / "out.mp4", workspace=folder / work, recipe=RECIPE, cancelled=cancelled, inputs=folder))


def frames_of(path: Path, width: int = 192, height: int = 128) -> list[np.ndarray]:
    return list(iter_frames(path, width=width, height=height, fit="crop"))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


class Recorder(SegmentWriter):
    """Keeps what is encoded."""

    seen: list[np.ndarray] = []  # noqa: RUF012  (emptied by its fixture)

    def add(self, pixels: np.ndarray) -> None:
        self.seen.append(np.array(pixels))
        super().add(pixels)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    Recorder.seen = []
    monkeypatch.setattr(running, "SegmentWriter", Recorder)
    return Recorder.seen


def test_given_frames_are_the_same_pixels_and_the_file_is_as_told(tmp_path: Path, video: str, encoded: list[np.ndarray]) -> None:
    plan = planned(tmp_path, video, fps=24)
    events = done(plan, tmp_path)
    given = frames_of(tmp_path / video)
    assert len(encoded) == 27 and all(np.array_equal(encoded[3 * number], frame) for number, frame in enumerate(given))
    assert [event.stage for event in events if isinstance(event, StageStarted)] == [Stage.LOAD, Stage.INTERPOLATE, Stage.VERIFY]
    written = events[-1]
    assert isinstance(written, ClipWritten)
    assert (written.frames, written.width, written.height, written.fps) == (27, 192, 128, 24.0)
    assert written.part.stat().st_size == written.size_bytes and written.poster_webp[8:12] == b"WEBP"
    facts = probe_video(written.part)
    assert (facts.frames, facts.fps, facts.variable) == (27, 24.0, False) and facts.seconds == pytest.approx(27 / 24)
    made = frames_of(written.part)
    assert min(psnr(made[3 * number], frame) for number, frame in enumerate(given)) >= 40
    assert read_recipe(written.part)["kind"] == "interpolate"
    with av.open(str(written.part)) as container:
        assert "not generation" in container.metadata["comment"]


@pytest.mark.parametrize("source", [AI_SOURCE, ENHANCED])
def test_file_and_poster_say_where_the_pictures_come_from(tmp_path: Path, video: str, source: str) -> None:
    told = RECIPE | {"digitalSourceType": source}
    *_, written = running.run(planned(tmp_path, video, fps=16), part=tmp_path / "out.mp4", workspace=tmp_path / "work", recipe=told,
                              cancelled=lambda: False, inputs=tmp_path)
    assert isinstance(written, ClipWritten)
    for packet in (video_xmp(written.part), picture_xmp(written.poster_webp)):
        assert says_machine_made(packet, source)
        assert says_machine_made(packet) == (source == AI_SOURCE)


def test_slowed_down_it_lasts_longer(tmp_path: Path, video: str) -> None:
    done(planned(tmp_path, video, slow=4, fps=16), tmp_path)
    facts = probe_video(tmp_path / "out.mp4")
    assert (facts.frames, facts.fps) == (72, 16.0) and facts.seconds == pytest.approx(4 * 9 / 8)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "SEGMENT_FRAMES", 7)
    monkeypatch.setattr(running, "LEAST_SEGMENT", 1)
    monkeypatch.setattr(running.Interpolation, "__init__", _pieces_of_seven(running.Interpolation.__init__))


def _pieces_of_seven(begin: Callable[..., None]) -> Callable[..., None]:
    def init(self: Any, *args: Any) -> None:
        begin(self, *args)
        self.each = 7
    return init


@pytest.mark.usefixtures("small_pieces")
def test_cancelled_and_resumed_gives_the_same_bytes(tmp_path: Path, video: str) -> None:
    plan = planned(tmp_path, video, fps=30)
    done(plan, tmp_path, work="whole")
    whole = (tmp_path / "out.mp4").read_bytes()
    for stop in (3, 9, 9, 8):
        asked = 0

        def wanted(stop: int = stop) -> bool:
            nonlocal asked
            asked += 1
            return asked > stop
        with pytest.raises(Cancelled):
            done(plan, tmp_path, cancelled=wanted)
        assert not list((tmp_path / "work").glob("*.part"))
    events = done(plan, tmp_path)
    assert [event.step for event in events if isinstance(event, Resumed)] == [21]
    assert (tmp_path / "out.mp4").read_bytes() == whole


def drifting(count: int) -> list[np.ndarray]:
    """Pictures of a texture that moves a pixel a frame."""
    texture = np.random.default_rng(5).integers(40, 230, (12, 16, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    return [np.roll(texture, number, axis=1) for number in range(count)]


TWO_RATES = [*(number / 6 for number in range(18)), *(3 + number / 7.5 for number in range(24))]
A_LONG_STOP = [*(number / 10 for number in range(12)), *(4 + number / 10 for number in range(12))]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(("times", "variable", "fps", "stop"), [(TWO_RATES, False, 12, 36), (A_LONG_STOP, True, 11, 22)])
def test_resumed_by_the_clock_of_the_frames(tmp_path: Path, times: list[float], variable: bool, fps: float, stop: int) -> None:
    """At the average rate the frame that is needed first would have another number."""
    name = added(tmp_path, write_video(tmp_path / "clip.mkv", drifting(len(times)), times=times))
    assert probe_video(tmp_path / name).variable is variable
    plan = planned(tmp_path, name, fps=fps)
    done(plan, tmp_path, work="whole")
    whole, asked = (tmp_path / "out.mp4").read_bytes(), iter([False] * stop)
    with pytest.raises(Cancelled):
        done(plan, tmp_path, cancelled=lambda: next(asked, True))
    assert [event.step for event in done(plan, tmp_path) if isinstance(event, Resumed)] == [stop // 7 * 7]
    assert (tmp_path / "out.mp4").read_bytes() == whole


class NearlyFull:
    """A container on a disk that has room for so many packets. Closing writes the end of the file, so it fails as well, once."""

    def __init__(self, container: Any, room: int) -> None:
        self.container, self.room, self.open = container, room, True

    def mux(self, packets: list[Any]) -> None:
        self.room -= len(packets)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.container.mux(packets)

    def close(self) -> None:
        self.container.close()
        if self.open:
            self.open = False
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("room", [0, 17, 18], ids=["at a frame", "at the last frames", "at the end of the file"])
def test_a_full_disk_blocks_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, video: str, room: int) -> None:
    class Crowded(SegmentWriter):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._container = NearlyFull(self._container, room)

    plan = planned(tmp_path, video, fps=16)
    assert plan.frames == 18
    with monkeypatch.context() as patch, pytest.raises(StorageBlocked, match="disk is full"):
        patch.setattr(running, "SegmentWriter", Crowded)
        done(plan, tmp_path)
    assert not list((tmp_path / "work").iterdir())
    assert isinstance(done(plan, tmp_path)[-1], ClipWritten)


@pytest.mark.usefixtures("small_pieces")
def test_damaged_and_foreign_pieces_are_made_again(tmp_path: Path, video: str) -> None:
    plan = planned(tmp_path, video, fps=24)
    done(plan, tmp_path)
    whole = (tmp_path / "out.mp4").read_bytes()
    piece = tmp_path / "work" / "seg-00001.mp4"
    data = bytearray(piece.read_bytes())
    data[len(data) // 2] ^= 1
    piece.write_bytes(data)
    assert [event.step for event in done(plan, tmp_path) if isinstance(event, Resumed)] == [7]
    assert (tmp_path / "out.mp4").read_bytes() == whole
    other = done(planned(tmp_path, video, fps=25), tmp_path)
    assert not [event for event in other if isinstance(event, Resumed)]


def _run_slowly(folder: Path, name: str) -> None:
    at = running.Interpolation.picture

    def picture(self: Any, wanted: Any) -> np.ndarray:
        time.sleep(0.01)
        return at(self, wanted)
    running.Interpolation.picture = picture  # type: ignore[method-assign]
    done(planned(folder, name, fps=60), folder)
    os._exit(0)


@pytest.mark.usefixtures("small_pieces")
def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, video: str) -> None:
    done(planned(tmp_path, video, fps=60), tmp_path, work="whole")
    whole = (tmp_path / "out.mp4").read_bytes()
    (tmp_path / "out.mp4").unlink()
    for wait in (0.9, 1.0):
        process = multiprocessing.get_context("fork").Process(target=_run_slowly, args=(tmp_path, video))
        process.start()
        process.join(wait)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    done(planned(tmp_path, video, fps=60), tmp_path)
    assert (tmp_path / "out.mp4").read_bytes() == whole


def test_nothing_is_made_across_a_cut(tmp_path: Path, encoded: list[np.ndarray]) -> None:
    name = added(tmp_path, write_video(tmp_path / "cut.mp4", [*CLIP[:4], *OTHER[:4]], fps=8))
    events = done(planned(tmp_path, name, fps=32), tmp_path)
    assert [event.seconds for event in events if isinstance(event, CutsFound)] == [(0.5,)]
    given = frames_of(tmp_path / name)
    assert all(np.array_equal(frame, given[3]) for frame in encoded[12:16]) and np.array_equal(encoded[16], given[4])
    assert read_recipe(tmp_path / "out.mp4")["cuts"] == [0.5]


def test_a_varying_frame_rate_becomes_a_steady_one(tmp_path: Path, encoded: list[np.ndarray]) -> None:
    name = added(tmp_path, write_video(tmp_path / "vary.mkv", CLIP[:5], times=[0.0, 0.1, 0.5, 0.6, 0.7]))
    plan = planned(tmp_path, name, fps=20)
    assert "varies" in " ".join(plan.notes)
    done(plan, tmp_path)
    given = frames_of(tmp_path / name)
    for number, frame in ((0, 0), (2, 1), (10, 2), (12, 3), (14, 4)):
        assert np.array_equal(encoded[number], given[frame])
    assert not any(np.array_equal(encoded[6], frame) for frame in given)


def with_sound(path: Path, codec: str, seconds: float = 1.0, rate: int = 16000) -> Path:
    """`CLIP` at 8 fps; silence, and a beep from 0.5 s on."""
    with av.open(str(path), "w") as container:
        picture: Any = container.add_stream("libx264", rate=8)
        picture.width, picture.height, picture.pix_fmt = 192, 128, "yuv420p"
        heard: Any = container.add_stream(codec, rate=rate)
        heard.bit_rate = 64000
        heard.layout = "mono"
        for frame in CLIP[:8]:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(picture.encode())
        clock = np.arange(int(rate * seconds)) / rate
        wave = (np.sin(clock * 2 * np.pi * 440) * (clock >= 0.5) * 20000).astype(np.int16)
        samples = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
        samples.sample_rate, samples.pts, samples.time_base = rate, 0, Fraction(1, rate)
        for part in av.AudioResampler(format=heard.format.name, layout="mono", rate=rate, frame_size=1024).resample(samples):
            container.mux(heard.encode(part))
        container.mux(heard.encode())
    return path


def test_of_a_video_with_odd_sides_a_line_is_cut_and_nothing_scaled() -> None:
    assert scaled_size((193.0, 129.0), (192, 128), "crop") == (193, 129)
    assert scaled_size((194.0, 130.0), (192, 128), "crop") == (192, 129) and scaled_size((193.0, 129.0), (192, 128), "pad") == (192, 128)


def beep_begins(path: Path) -> float:
    """Seconds."""
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            loud = np.flatnonzero(np.abs(frame.to_ndarray().astype(float)).max(0) > (0.2 if frame.format.name.startswith("fl") else 6000))
            if len(loud):
                return float(frame.time or 0) + float(loud[0]) / frame.sample_rate
    return -1.0


@pytest.mark.parametrize(("codec", "kind", "kept", "rate"), [("aac", "mp4", "aac", 16000), ("pcm_s16le", "mkv", "aac", 16000),
                                                             ("mp3", "mkv", "mp3", 16000), ("pcm_s16le", "mkv", "aac", 11024),
                                                             ("pcm_s16le", "mkv", "aac", 192000), ("wmav2", "avi", "aac", 44100)])
def test_sound_stays_in_step(tmp_path: Path, codec: str, kind: str, kept: str, rate: int) -> None:
    name = added(tmp_path, with_sound(tmp_path / f"loud.{kind}", codec, rate=rate))
    done(planned(tmp_path, name, fps=24), tmp_path)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.audio[0].codec_context.codec.canonical_name == kept
    with av.open(str(tmp_path / name)) as container:
        first = float(next(container.decode(video=0)).time or 0)  # AVI shows the first picture a little later
    before, after = beep_begins(tmp_path / name), beep_begins(tmp_path / "out.mp4")
    assert before == pytest.approx(0.5, abs=0.07) and after == pytest.approx(before - first, abs=0.07)


class Damaged:
    """Of its packets every third cannot be decoded."""

    def __init__(self, source: Any) -> None:
        self.demux = lambda stream: (SimpleNamespace(decode=packet.decode if number % 3 else self.fail)
                                     for number, packet in enumerate(source.demux(stream)))
        self.close = source.close

    def fail(self) -> None:
        raise av.error.InvalidDataError(1, "damaged")


def test_damaged_packets_of_sound_are_passed_over(tmp_path: Path) -> None:
    name = added(tmp_path, with_sound(tmp_path / "loud.mkv", "pcm_s16le"))
    sound = Sound(tmp_path / name, probe_video(tmp_path / name), 0.0)
    sound._source = Damaged(sound._source)  # type: ignore[assignment]
    with sound, av.open(str(tmp_path / "heard.mp4"), "w") as target:
        sound.into(target).until(9.0)
    with av.open(str(tmp_path / "heard.mp4")) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) >= 8000


def test_what_cannot_be_heard_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = added(tmp_path, with_sound(tmp_path / "loud.mp4", "aac"))
    source = Sound(tmp_path / name, probe_video(tmp_path / name), 0.0)
    source._stream = SimpleNamespace(codec_context=None)  # type: ignore[assignment]
    with source, pytest.raises(Unheard):
        source.into(None)
    monkeypatch.setattr("engine.interpolate.sound.COPIED", ())
    monkeypatch.setattr("engine.interpolate.sound.rate_for", lambda rate: 11024)
    events = done(planned(tmp_path, name, fps=24), tmp_path)
    assert SoundLeftOut() in events and isinstance(events[-1], ClipWritten)
    assert not probe_video(tmp_path / "out.mp4").sound


def test_sound_is_left_out_of_what_is_slowed_down(tmp_path: Path) -> None:
    name = added(tmp_path, with_sound(tmp_path / "loud.mp4", "aac"))
    plan = planned(tmp_path, name, slow=2)
    assert any("sound is left out" in note for note in plan.notes)
    done(plan, tmp_path)
    assert not probe_video(tmp_path / "out.mp4").sound


def test_a_video_that_was_changed_or_is_gone_is_refused(tmp_path: Path, video: str) -> None:
    plan = planned(tmp_path, video, fps=24)
    with (tmp_path / video).open("ab") as file:
        file.write(b"x")
    with pytest.raises(InvalidRequest, match="was changed"):
        done(plan, tmp_path)
    (tmp_path / video).unlink()
    with pytest.raises(InvalidRequest, match="not among the inputs"):
        done(plan, tmp_path)


def test_one_frame_has_nothing_between(tmp_path: Path) -> None:
    name = added(tmp_path, write_video(tmp_path / "one.mp4", CLIP[:1], fps=8))
    with pytest.raises(InvalidRequest, match="has 1 frame"):
        planned(tmp_path, name, fps=24)


def test_odd_sides_lose_a_line(tmp_path: Path) -> None:
    odd = [np.ascontiguousarray(frame[:127, :191]) for frame in CLIP[:4]]
    name = added(tmp_path, write_video(tmp_path / "odd.mkv", odd, fps=8, codec="ffv1", pixel_format="yuv444p"))
    done(planned(tmp_path, name, fps=16), tmp_path)
    facts = probe_video(tmp_path / "out.mp4")
    assert (facts.width, facts.height, facts.frames) == (190, 126, 8)


def test_the_recipe_says_what_it_is_and_names_nothing_private(tmp_path: Path, video: str) -> None:
    from datetime import datetime, timezone

    wish = InterpolateRequest(video=video, fps=24, title="ball")
    for generated, kind in ((True, "trainedAlgorithmicMedia"), (False, "algorithmicallyEnhanced")):
        recipe = build_interpolation_recipe(wish, planned(tmp_path, video, fps=24), clip_id="c", made_from=None, generated=generated,
                                            created=datetime(2026, 1, 1, tzinfo=timezone.utc), source={"title": "ball"})
        assert recipe["digitalSourceType"].endswith(kind) and recipe["label"] == "motion interpolation, not generation"
        assert str(tmp_path) not in str(recipe)


def test_planning_needs_no_torch_no_opencv_and_running_no_torch() -> None:
    code = ("import sys, engine.interpolate.plan, engine.interpolate.request, engine.interpolate.recipe, app.interpolation\n"
            "assert not {'torch', 'cv2', 'av'} & set(sys.modules)\nimport engine.interpolate.run\nassert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
