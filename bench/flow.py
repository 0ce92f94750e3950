"""Motion interpolation against ffmpeg's `minterpolate` (mci) and plain blending, on frames whose truth is known; and its memory.

    python -m bench.flow [--clips 24] [--wide 3] [--no-memory]

Held-out scenes of the pocket world, 25 frames: every 2nd and every 4th is given, the others are made and compared with those that
the world itself draws. The same frames go to every method, in turn and in one process, everything on one thread; times are of the
processor (the median over the clips), without decoding, encoding or the conversion that minterpolate's YUV needs (which is full
range, all of the colour). PSNR is of RGB, the mean over frames; minterpolate gives no last frames, so all are compared where it
gives one. The filter is PyAV's own; where its FFmpeg was built without it the bench says so and compares with blending alone.

Also 640 x 360 where everything moves (waves that turn and drift), and the peak memory of the whole job, each in a process
of its own, at 49 and at 385 frames. Exit status 1 where a target is missed: 3 times as fast, 1 dB better, 10 % of growth.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import av
import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.interpolate.flow import between
from training.pocket import world

FASTER, BETTER, GROWTH = 3.0, 1.0, 1.10
LONG, SHORT = 385, 49
Made = dict[int, np.ndarray]
"""Number of the frame -> frame."""


def psnr(made: np.ndarray, truth: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((made.astype(np.float32) - truth) ** 2))))


def by_flow(given: list[np.ndarray], step: int) -> tuple[Made, float]:
    begun, made = time.process_time(), Made()
    for number, (a, b) in enumerate(pairwise(given)):
        for at, frame in enumerate(between(a, b, [each / step for each in range(1, step)]), 1):
            made[number * step + at] = frame
    return made, time.process_time() - begun


def by_blending(given: list[np.ndarray], step: int) -> tuple[Made, float]:
    begun, made = time.process_time(), Made()
    for number, (a, b) in enumerate(pairwise(given)):
        for at in range(1, step):
            made[number * step + at] = cv2.addWeighted(a, 1 - at / step, b, at / step, 0)
    return made, time.process_time() - begun


def by_minterpolate(given: list[np.ndarray], step: int, options: str) -> tuple[Made, float]:
    """FFmpeg's filter, frames in and out as full-range YUV 4:4:4."""
    height, width = given[0].shape[:2]
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("yuv444p"), time_base=Fraction(1, 8 * step))
    filtered, sink = graph.add("minterpolate", f"fps=8:{options}"), graph.add("buffersink")
    source.link_to(filtered)
    filtered.link_to(sink)
    graph.configure()
    frames = [_yuv(picture, number * step * step) for number, picture in enumerate(given)]
    for frame in frames:
        frame.time_base = Fraction(1, 8 * step)
    begun, out = time.process_time(), []
    for frame in [*frames, None]:
        graph.push(frame)
        out.extend(_pulled(graph))
    took = time.process_time() - begun
    made = {round(float(frame.pts * frame.time_base) * 8): frame for frame in out}
    return {number: frame.reformat(format="rgb24", src_colorspace="itu709", src_color_range="JPEG").to_ndarray()
            for number, frame in made.items() if number % step}, took


def _yuv(picture: np.ndarray, pts: int) -> Any:
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv444p", dst_colorspace="itu709", dst_color_range="JPEG")
    frame.pts = pts
    return frame


def _pulled(graph: Any) -> Iterator[Any]:
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


Method = Callable[[list[np.ndarray], int], tuple[Made, float]]
METHODS: dict[str, Method] = {
    "flow (ours)": by_flow,
    "blending": by_blending,
    "minterpolate mci": lambda given, step: by_minterpolate(given, step, "mi_mode=mci"),
    "minterpolate mci, aobmc": lambda given, step: by_minterpolate(given, step, "mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1"),
}
MCI = "minterpolate mci"


@dataclass
class Score:
    """Of one method over many clips."""

    decibels: list[float] = field(default_factory=list)
    paces: list[float] = field(default_factory=list)
    """Seconds a frame that was made, one of each clip."""
    frames: int = 0

    @property
    def each(self) -> float:
        """Milliseconds a frame that was made: the median over the clips, which other work on the machine moves least."""
        return 1000 * median(self.paces)


def compare(clips: list[np.ndarray], step: int, methods: dict[str, Method]) -> dict[str, Score]:
    """Every method on every clip, in turn; compared on the frames that all of them made."""
    scores = {name: Score() for name in methods}
    for clip in clips:
        given = [np.ascontiguousarray(frame) for frame in clip[::step]]
        results = {name: method(given, step) for name, method in methods.items()}
        common = set.intersection(*(set(made) for made, _ in results.values()))
        for name, (made, took) in results.items():
            scores[name].paces.append(took / max(1, len(made)))
            scores[name].frames += len(made)
            scores[name].decibels += [psnr(made[number], clip[number]) for number in sorted(common)]
    return scores


def waves(seed: int, frames: int = 13, size: tuple[int, int] = (360, 640)) -> np.ndarray:
    """A picture full of waves that drifts and turns a little: every pixel moves. uint8 (frames, height, width, 3)."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32) - np.array(size, np.float32)[:, None, None] / 2
    pitches, drift, turn = draw.uniform(6, 30, (3, 4)), draw.uniform(-4, 4, 2), draw.uniform(-0.01, 0.01)
    film = []
    for number in range(frames):
        c, s = np.cos(turn * number), np.sin(turn * number)
        u, v = c * x - s * y - drift[0] * number, s * x + c * y - drift[1] * number
        film.append(np.dstack([np.sin(u / a + v / b) + np.cos(u / c2 - v / d) for a, b, c2, d in pitches]) * 55 + 128)
    return np.rint(np.array(film)).clip(0, 255).astype(np.uint8)


def show(title: str, scores: dict[str, Score]) -> tuple[float, float]:
    """The table; (times as fast as mci, decibels better), or (inf, inf) without mci."""
    print(f"\n{title}")
    print(f"  {'method':<26}{'PSNR dB':>9}{'frames':>8}{'ms a frame':>12}")
    for name, score in scores.items():
        print(f"  {name:<26}{np.mean(score.decibels):>9.2f}{score.frames:>8}{score.each:>12.2f}")
    ours, theirs = scores["flow (ours)"], scores.get(MCI)
    if theirs is None:
        return float("inf"), float("inf")
    faster, better = theirs.each / ours.each, float(np.mean(ours.decibels) - np.mean(theirs.decibels))
    print(f"  ours against mci: {faster:.1f} times as fast, {better:+.2f} dB; against blending "
          f"{np.mean(ours.decibels) - np.mean(scores['blending'].decibels):+.2f} dB")
    return faster, better


def picture(path: Path) -> None:
    """For docs/interpolation.md: two given frames, and what each method puts in the middle of them, beside the truth."""
    from PIL import Image, ImageDraw

    clip = world.render(world.scene_at(7, 3, "held-out"), 25, 384, 256).video
    given = [np.ascontiguousarray(frame) for frame in clip[::4]]
    shown = [("given", given[2]), ("blending", by_blending(given, 4)[0][10]), ("minterpolate mci", METHODS[MCI](given, 4)[0][10]),
             ("optical flow (ours)", by_flow(given, 4)[0][10]), ("truth", clip[10]), ("given", given[3])]
    sheet = Image.new("RGB", (3 * 384 + 16, 2 * 256 + 8), "white")
    for number, (name, frame) in enumerate(shown):
        tile = Image.fromarray(frame)
        ImageDraw.Draw(tile).text((8, 6), name, fill="white", stroke_fill="black", stroke_width=2, font_size=18)
        sheet.paste(tile, (number % 3 * 392, number // 3 * 264))
    sheet.save(path)


def job(folder: Path, frames: int) -> None:
    """One whole interpolation to 24 fps of a video of so many frames; prints its peak memory. In a process of its own."""
    from engine.events import ClipWritten
    from engine.inputs import input_name
    from engine.interpolate.plan import plan_interpolation
    from engine.interpolate.request import InterpolateRequest
    from engine.interpolate.run import run
    from engine.media.probe import probe_video

    path = folder / f"{frames}.mp4"
    name = input_name(path, "mp4")
    path.rename(folder / name)
    plan = plan_interpolation(InterpolateRequest(video=name, fps=24), probe_video(folder / name))
    *_, last = run(plan, part=folder / "out.mp4", workspace=folder / f"work{frames}", inputs=folder, cancelled=lambda: False,
                   recipe={"kind": "interpolate", "app_version": "bench", "request": {}})
    assert isinstance(last, ClipWritten)
    print(last.peak_bytes, last.frames, sum(last.seconds.values()), plan.predicted_bytes)


def memory() -> bool:
    """Peak of a whole job, short and long."""
    print(f"\nPeak memory of a whole job (384 x 256, 8 -> 24 fps), {SHORT} and {LONG} frames given:")
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for frames in (SHORT, LONG):
            clip = world.render(world.scene_at(7, 3, "held-out"), SHORT, 384, 256).video
            with av.open(str(Path(folder) / f"{frames}.mp4"), "w") as container:
                stream: Any = container.add_stream("libx264", rate=8)
                stream.width, stream.height, stream.pix_fmt = 384, 256, "yuv420p"
                for number in range(frames):
                    turn = number % (2 * SHORT - 2)  # there and back, without a jump
                    picture = clip[min(turn, 2 * SHORT - 2 - turn)]
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                container.mux(stream.encode())
            command = [sys.executable, "-m", "bench.flow", "--job", folder, str(frames)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            peak, made, seconds, forecast = int(answer[0]), int(answer[1]), float(answer[2]), int(answer[3])
            peaks.append(peak)
            print(f"  {frames:>4} -> {made:>5} frames: {peak / 1e6:7.1f} MB (forecast {forecast / 1e6:.1f}), {seconds:.1f} s")
    print(f"  grows {100 * (peaks[1] / peaks[0] - 1):+.1f} %")
    return peaks[1] <= GROWTH * peaks[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--wide", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="only draw the picture of docs/interpolation.md")
    parser.add_argument("--job", nargs=2, metavar=("FOLDER", "FRAMES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job(Path(options.job[0]), int(options.job[1]))
        return
    cv2.setNumThreads(1)
    if options.picture:
        picture(options.picture)
        return
    methods = METHODS
    if "minterpolate" not in av.filter.filters_available:
        print("This PyAV's FFmpeg was built without minterpolate, so there is nothing to compare with but blending.")
        methods = {name: method for name, method in METHODS.items() if not name.startswith("minterpolate")}
    print(f"OpenCV {cv2.__version__}, PyAV {av.__version__}, one thread, processor time")
    compare([world.render(world.scene_at(8, 0, "held-out"), 9).video], 2, methods)  # the first calls pay for loading
    clips = [world.render(world.scene_at(7, index, "held-out"), 25).video for index in range(options.clips)]
    good = True
    for step in (2, 4):
        word = {2: "2nd", 4: "4th"}[step]
        faster, better = show(f"Pocket world, {len(clips)} held-out clips of 192 x 128, every {word} frame given:",
                              compare(clips, step, methods))
        good = good and faster >= FASTER and better >= BETTER
    if options.wide:
        large = [world.render(world.scene_at(7, index, "held-out"), 13, 384, 256).video for index in range(2 * options.wide)]
        show(f"Pocket world, {len(large)} of them at 384 x 256, every 4th frame given (not among the targets):", compare(large, 4, methods))
        show(f"Everything moves, {options.wide} clips of 640 x 360, every 2nd frame given (not among the targets):",
             compare([waves(seed) for seed in range(options.wide)], 2, methods))
    if not options.no_memory:
        good = memory() and good
    print(f"\nTargets (at least {FASTER:g} times as fast as mci and {BETTER:g} dB better, memory grows at most 10 %): "
          f"{'reached' if good else 'MISSED'}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
