"""Hierarchical generation on the pocket model: `python -m bench.hierarchy [middle | long | given | memory ...]`.

middle   held-out clips of the exact world, every second or fourth frame given: PSNR of the frames made between, against optical
         flow and plain blending, motion by motion; and how far the subject's centre is off (generate / flow)
fill     two clips with three frames missing between them: the same, and how far the subject's centre is off
long     97 frames by hierarchy and by sliding windows at equal sampling cost, each next one from the last frame before it (a clip) or
         from the last two (a window of the stage-two model): how far the subject is from the best fit of the motion's own law over
         the whole action, and whether that motion is read
given    given frames before and after encoding
colour   how near a file with a quarter of the colour samples comes to frames of the world, written as usual and as with given frames
rate     key frames by the stage-two model alone, from words, at several rates: does the rate say how much changes from one to the next,
         and are they of the prompt
memory   highest memory for 49 and for 385 frames, each in a process of its own, one denoising step a block
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from PIL import Image

from bench.pocket_vision import find_blob, read_clip
from engine.digest import file_sha256
from engine.events import ClipWritten
from engine.hardware import Hardware, detect
from engine.interpolate import flow
from engine.interpolate.filling import gap
from engine.interpolate.interpolator import Interpolator, Window
from engine.interpolate.levels import Hierarchy, hierarchy
from engine.models.cache import ModelCache
from engine.models.catalogue import find
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from engine.run import run
from engine.spec import read_spec
from engine.video.chroma import halved
from engine.video.writer import BT601, LIMITED, ClipWriter
from training.pocket import world
from training.pocket.captions import caption

SEED = 2027
CPU = Hardware(device="cpu", name="one core", total_bytes=16 * 2**30, free_bytes=12 * 2**30, cores=1, bf16=detect("cpu").bf16)
EXACT, BILINEAR, POINT = 8192 | 16384 | 262144, 2, 16
PARTS = ("middle", "fill", "long", "given", "colour", "rate", "memory")


def planned(model: str = "pocket", **fields: Any) -> Plan:
    return plan(GenerationRequest(model=model, **fields), read_spec(find(model), model), CPU)


def made(job: Plan, folder: Path, models: ModelCache, inputs: Path | None = None) -> ClipWritten:
    recipe = {"request": {"model": job.model, "seed": job.seed}, "app_version": "bench"}
    *_, last = run(job, part=folder / "clip.part.mp4", workspace=folder / "work", recipe=recipe, models=models, cancelled=lambda: False,
                   inputs=inputs)
    assert isinstance(last, ClipWritten)
    return last


def frames_of(folder: Path, job: Plan) -> np.ndarray:
    """The frames of a finished run as they were before encoding: uint8 (F, H, W, 3)."""
    assert job.hierarchy is not None
    (store,) = (folder / "work").glob("frames-*")
    (rounds,) = store.glob("round-*") if job.hierarchy.levels.rounds else (store,)
    stride = job.hierarchy.levels.stride
    paths = [store / f"key-{i:06d}.png" if i % stride == 0 else rounds / f"{i:06d}.png" for i in range(job.frames)]
    return np.stack([np.array(Image.open(path)) for path in paths])


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((a.astype(float) - b) ** 2))))


# ---- middle frames


def flow_between(a: np.ndarray, b: np.ndarray, place: float) -> np.ndarray:
    """The frame at `place` (0..1) between two by Sprocket's own optical flow."""
    return flow.between(a, b, [place])[0]


def filled_in(maker: Interpolator, video: np.ndarray, levels: Hierarchy) -> dict[int, np.ndarray]:
    """The frames that `levels` makes, by rounds, from its key frames alone."""
    there = {index: video[index] for index in levels.keys}
    for level in levels.levels:
        for block in level.blocks:
            window = Window(tuple(there.get(frame) if frame in block.known else None for frame in block.frames),
                            tuple(block.frames.index(frame) for frame in block.makes), SEED + block.frames[0], level.fps)
            (found,) = maker.make([window])
            there |= {block.frames[slot]: pixels for slot, pixels in found.items()}
    return there


def middle(models: ModelCache, scenes: int, motions: Sequence[str], spacings: Sequence[int]) -> None:
    job = planned(prompt="-", key_frames=7, frames=25)
    assert job.hierarchy is not None
    base = planned("pocket-i2v", prompt="-", image="0" * 64 + ".png")
    print(f"\nmiddle: held-out clips of 25 frames at 8 fps, {scenes} of each motion, frames between the given ones, dB over the frame")
    print(f"{'given':<14}{'motion':<15}{'generate':>10}{'flow':>14}{'blend':>9}{'generate - flow':>18}{'off place, px':>20}")
    for every in spacings:
        for motion in motions:
            rows, places = [], []
            for scene in scenes_of(motion, scenes):
                video = world.render(scene, 25).video
                words = caption(scene, np.random.default_rng(SEED))
                with Interpolator.opened(models.get(base), job.hierarchy.adapter, job.hierarchy.facts, prompt=words, size=(128, 192),
                                         tile=(128, 192)) as maker:
                    levels = hierarchy(25, 8.0, 24 // every + 1, most_keys=49, slots=maker.facts.slots)
                    there = filled_in(maker, video, levels)
                missing = [i for i in range(25) if i % every]
                ends = lambda i: (i - i % every, i - i % every + every, i % every / every)  # noqa: B023, E731
                others = [np.stack([way(video[a], video[b], p) for a, b, p in map(ends, missing)]) for way in (flow_between, blend)]
                ours = np.stack([there[i] for i in missing])
                rows.append([psnr(each, video[missing]) for each in (ours, *others)])
                places.append([off_place(each, video[missing]) for each in (ours, others[0])])
            generate, flow_db, blended = np.mean(rows, axis=0)
            off = " / ".join(f"{each:.1f}" for each in np.mean(places, axis=0))
            print(f"{f'every {every}':<14}{motion:<15}{generate:>10.1f}{flow_db:>14.1f}{blended:>9.1f}{generate - flow_db:>+18.1f}"
                  f"{off:>20}", flush=True)


BEFORE, BETWEEN = 11, 3
"""Frames of the first clip, and those that are missing before the second."""


def fill(models: ModelCache, scenes: int, motions: Sequence[str]) -> None:
    """Fill between two clips: one clip of the world without its middle, whose truth is known."""
    job = planned(prompt="-", key_frames=7, frames=25)
    assert job.hierarchy is not None
    base = planned("pocket-i2v", prompt="-", image="0" * 64 + ".png")
    levels, missing = gap(BEFORE, BETWEEN, 25 - BEFORE - BETWEEN, 8.0, job.hierarchy.facts.slots), slice(BEFORE, BEFORE + BETWEEN)
    print(f"\nfill: held-out clips of 25 frames as two, without the frames {BEFORE} to {BEFORE + BETWEEN - 1}; dB over those")
    print(f"{'motion':<15}{'generate':>10}{'flow':>8}{'off place, px':>18}")
    for motion in motions:
        for scene in scenes_of(motion, scenes):
            video = world.render(scene, 25).video
            with Interpolator.opened(models.get(base), job.hierarchy.adapter, job.hierarchy.facts, size=(128, 192), tile=(128, 192),
                                     prompt=caption(scene, np.random.default_rng(SEED))) as maker:
                there = filled_in(maker, video, levels)
            ours = np.stack([there[index] for index in range(BEFORE, BEFORE + BETWEEN)])
            theirs = np.stack(flow.between(video[BEFORE - 1], video[BEFORE + BETWEEN], [0.25, 0.5, 0.75]))
            off = " / ".join(f"{off_place(each, video[missing]):.1f}" for each in (ours, theirs))
            print(f"{motion:<15}{psnr(ours, video[missing]):>10.1f}{psnr(theirs, video[missing]):>8.1f}{off:>18}", flush=True)


def off_place(made: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance, pixels, of the subject's centre from where it is in truth; a subject that is not found is half the width away."""
    errors = []
    for frame, real in zip(made, truth, strict=True):
        there, right = find_blob(frame), find_blob(real)
        if right is not None:
            errors.append(frame.shape[1] / 2 if there is None else float(np.hypot(there.x - right.x, there.y - right.y)))
    return float(np.mean(errors)) if errors else float("nan")


def blend(a: np.ndarray, b: np.ndarray, place: float) -> np.ndarray:
    return np.rint((1 - place) * a.astype(float) + place * b).astype(np.uint8)


def scenes_of(motion: str, count: int) -> Iterator[world.Scene]:
    index = 0
    while count:
        scene = world.scene_at(SEED, index, "held-out", pair_share=0.0)
        index += 1
        if scene.motion == motion:
            count -= 1
            yield scene


# ---- 97 frames


PROMPTS = (("a red ball moves from left to right slowly in a meadow", "left to right"),
           ("a yellow star rises slowly in the night sky", "rises"),
           ("a purple ball falls quickly in the desert", "falls"), ("a blue square bounces slowly in a plain studio", "bounces"))
FRAMES, KEYS = 97, 25


def law(motion: str, phase: np.ndarray) -> list[np.ndarray]:
    """What the subject's (x or y) may be over the action, up to where it starts and how far it goes; several where the law has variants."""
    if motion == "bounces":
        return [-np.abs(np.sin(np.pi * hops * phase)) for hops in (1, 2)]
    return [phase * {"left to right": 1, "right to left": -1, "rises": -1, "falls": 1}[motion]]


def trajectory_error(video: np.ndarray, motion: str) -> float:
    """RMS distance, pixels, of the subject's centre from the nearest path that obeys the motion's law over the whole clip.

    The path's start and reach are free, its direction is not. A frame without a subject counts as the subject standing at the middle.
    """
    blobs = [find_blob(frame) for frame in video]
    height, width = video.shape[1:3]
    x = np.array([blob.x if blob else width / 2 for blob in blobs])
    y = np.array([blob.y if blob else height / 2 for blob in blobs])
    along, across = (x, y) if motion in world.HORIZONTAL else (y, x)
    errors = []
    for shape in law(motion, np.linspace(0, 1, len(video))):
        centred = shape - shape.mean()
        reach = max(0.15 * height, float(centred @ (along - along.mean()) / (centred @ centred)))
        errors.append(np.mean((along - along.mean() - reach * centred) ** 2) + np.var(across))
    return float(np.sqrt(min(errors)))


def long(models: ModelCache, folder: Path, prompts: int) -> None:
    """Equal cost: slots * steps * passes. One stage, overlap 1: 4 clips of 7 slots, 20 steps, guided: 1,120. Overlap 2: one clip, and 15
    windows of 7 slots, 8 steps: 1,120. Hierarchy: 280 and 168 slots * 5."""
    print(f"\nlong: {FRAMES} frames at 8 fps, 1,120 slot-steps each; error: pixels from the motion's law over the whole action")
    print(f"{'prompt':<56}{'hierarchical':>13}{'overlap 1':>11}{'overlap 2':>11}   read")
    totals = []
    for number, (prompt, motion) in enumerate(PROMPTS[:prompts]):
        job = planned(prompt=prompt, seed=SEED + number, frames=FRAMES, key_frames=KEYS)
        assert job.hierarchy is not None
        job = replace(job, hierarchy=replace(job.hierarchy, facts=replace(job.hierarchy.facts, steps=5)))
        home = folder / f"long-{number}"
        made(job, home, models)
        slide = folder / f"slide-{number}"
        one = sliding(prompt, SEED + number, slide, models, FRAMES)
        videos = [frames_of(home, job), one, sliding_by_two(prompt, SEED + number, one[:25], job, models)]
        errors = [trajectory_error(video, motion) for video in videos]
        totals.append(errors)
        seen = " / ".join(read_clip(video[::4]).motion for video in videos)
        print(f"{prompt:<56}{errors[0]:>13.1f}{errors[1]:>11.1f}{errors[2]:>11.1f}   {seen}", flush=True)
    mean = np.mean(totals, axis=0)
    print(f"{'mean':<56}{mean[0]:>13.1f}{mean[1]:>11.1f}{mean[2]:>11.1f}   ratio {mean[0] / mean[1]:.2f}, {mean[0] / mean[2]:.2f}")


def sliding_by_two(prompt: str, seed: int, begun: np.ndarray, job: Plan, models: ModelCache) -> np.ndarray:
    """Windows of the stage-two model at the clip's own rate, each from the last two frames before it. `begun`: the first clip."""
    assert job.hierarchy is not None
    facts, video = replace(job.hierarchy.facts, steps=8), list(begun)
    with Interpolator.opened(models.get(planned("pocket-i2v", prompt="-", image="0" * 64 + ".png")), job.hierarchy.adapter, facts,
                             prompt=prompt, size=(128, 192), tile=(128, 192)) as maker:
        while len(video) < FRAMES:
            (made_now,) = maker.make([Window((*video[-2:], *[None] * 5), (2, 3, 4, 5, 6), seed + len(video), 8.0)])
            video += [made_now[slot] for slot in sorted(made_now)]
    return np.stack(video[:FRAMES])


def sliding(prompt: str, seed: int, folder: Path, models: ModelCache, frames: int) -> np.ndarray:
    """Clip after clip, each from the last frame of the one before: overlap 1."""
    from engine.media.clip import read_frames

    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    video = np.zeros((0, 128, 192, 3), np.uint8)
    while len(video) < frames:
        fields: dict[str, Any] = {"prompt": prompt, "seed": seed + len(video)}
        if len(video):
            Image.fromarray(video[-1]).save(inputs / "last.png")
            name = f"{file_sha256(inputs / 'last.png')}.png"
            (inputs / "last.png").rename(inputs / name)
            fields |= {"model": "pocket-i2v", "image": name}
        home = folder / str(len(video))
        written = made(planned(**fields), home, models, inputs)
        new = read_frames(written.part, frames=25, width=192, height=128, fit="crop", fps=8.0)
        video = np.concatenate([video, new[1:] if len(video) else new])
    return video[:frames]


# ---- given frames, memory


def given(models: ModelCache, folder: Path) -> None:
    from engine.media.clip import read_frames

    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    scene = next(scenes_of("left to right", 1))
    video = world.render(scene, 25).video
    known = {}
    for index in (0, 12, 24):
        Image.fromarray(video[index]).save(inputs / "x.png")
        known[index] = f"{file_sha256(inputs / 'x.png')}.png"
        (inputs / "x.png").rename(inputs / known[index])
    job = planned(prompt=caption(scene, np.random.default_rng(1)), seed=1, frames=25, key_frames=7, given=tuple(known.items()))
    written = made(job, folder, models, inputs)
    after = read_frames(written.part, frames=25, width=192, height=128, fit="crop", fps=8.0)
    print("\ngiven: frames 0, 12 and 24 of a held-out clip, the others made")
    for index in known:
        print(f"frame {index:>3}   in the file {psnr(after[index], video[index]):.1f} dB (before encoding it is the given picture itself)")


def colour(folder: Path) -> None:
    """What a quarter of the colour samples costs these pictures, before any codec by who enlarges the colour again, and in a file."""
    print("\ncolour: dB over a frame, 4:2:0 alone (no codec) as most programs make it and as clips with given frames have it: read by a "
          "player that\nenlarges colour linearly / that repeats it, brightness alone; and in a file, 3 of 25 frames")
    plain = VideoReformatter()
    ways: dict[str, Callable[[np.ndarray], Any]] = {
        "usual": lambda rgb: plain.reformat(av.VideoFrame.from_ndarray(rgb, format="rgb24"), format="yuv420p", dst_colorspace=BT601,
                                            dst_color_range=LIMITED),
        "faithful": halved}
    rows = []
    for motion in world.MOTIONS:
        frame = np.ascontiguousarray(world.render(next(scenes_of(motion, 1)), 25).video[12])
        found = []
        for way in ways.values():
            linear, repeated = (_enlarged(way(frame), flags) for flags in (EXACT | BILINEAR, POINT))
            bright = [each @ np.array([0.299, 0.587, 0.114]) for each in (linear.astype(float), frame.astype(float))]
            found += [psnr(linear, frame), psnr(repeated, frame), psnr(*bright)]
        files = [_filed(motion, folder, faithful) for faithful in (False, True)]
        rows.append([*found, *files])
        print(f"{motion:<15}" + "   ".join(f"{name} {a:.1f} / {b:.1f}, {c:.1f}, file {d:.1f}" for name, (a, b, c), d in
                                           zip(ways, (found[:3], found[3:]), files, strict=True)))
    a, b, _, c, d, _, e, f = np.mean(rows, axis=0)
    print(f"{'mean':<15}usual {a:.1f} / {b:.1f}, file {e:.1f}   faithful {c:.1f} / {d:.1f}, file {f:.1f}")


def _filed(motion: str, folder: Path, faithful: bool) -> float:
    """dB of frames 0, 12 and 24 of a clip of the world in a file as the studio writes it."""
    from engine.media.clip import read_frames

    video, path = world.render(next(scenes_of(motion, 1)), 25).video, folder / "colour.mp4"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {"request": {"model": "world", "seed": SEED}, "app_version": "bench"}
    with ClipWriter(path, width=192, height=128, fps=8, frames=25, recipe=recipe, faithful=faithful) as writer:
        writer.write(video)
        writer.finish()
    after = read_frames(path, frames=25, width=192, height=128, fit="crop")
    return float(np.mean([psnr(after[index], video[index]) for index in (0, 12, 24)]))


def _enlarged(frame: Any, flags: int) -> np.ndarray:
    """uint8 (height, width, 3) of a 4:2:0 frame whose samples lie in the middle of their pixels."""
    picture: Any = VideoReformatter().reformat(frame, format="gbrp", src_colorspace=5, src_color_range=LIMITED, dst_color_range=2,
                                               interpolation=flags)
    planes = [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:picture.height, :picture.width] for plane in picture.planes]
    return np.stack([planes[channel] for channel in (2, 0, 1)], axis=-1)


KEY_RATES, KEY_SLOTS = (1.0, 2.0, 4.0, 8.0), 7


def rate(models: ModelCache, prompts: int) -> None:
    """Stage 1 by the only weights that carry a rate embedding, nothing known; against key frames taken from a clip of the model."""
    print(f"\nrate: {KEY_SLOTS} key frames from words alone by the stage-two model: how many pixels the subject's centre moves from one to "
          "the next, in how many it is found")
    print(f"{'prompt':<56}{'fps':>6}{'moves':>8}{'found':>8}   read")
    job = planned(prompt="-", key_frames=7, frames=25)
    assert job.hierarchy is not None
    base = planned("pocket-i2v", prompt="-", image="0" * 64 + ".png")
    for number, (prompt, _) in enumerate(PROMPTS[:prompts]):
        with Interpolator.opened(models.get(base), job.hierarchy.adapter, job.hierarchy.facts, prompt=prompt, size=(128, 192),
                                 tile=(128, 192)) as maker:
            windows = [Window((None,) * KEY_SLOTS, tuple(range(KEY_SLOTS)), SEED + number, fps) for fps in KEY_RATES]
            for fps, (made_now,) in ((window.fps, maker.make([window])) for window in windows):
                video = np.stack([made_now[slot] for slot in range(KEY_SLOTS)])
                blobs = [blob for blob in map(find_blob, video) if blob is not None]
                steps = [float(np.hypot(a.x - b.x, a.y - b.y)) for a, b in pairwise(blobs)]
                moves = f"{np.mean(steps):.1f}" if steps else "-"
                print(f"{prompt:<56}{fps:>6g}{moves:>8}{f'{len(blobs)}/{KEY_SLOTS}':>8}   {read_clip(video).motion}", flush=True)


def memory() -> None:
    print("\nmemory: highest resident set, one denoising step a block")
    peaks = {}
    for frames, keys in ((49, 25), (385, 25)):
        code = ("import json, sys, tempfile, torch; from pathlib import Path; from dataclasses import replace; torch.set_num_threads(1)\n"
                "from bench.hierarchy import made, planned; from engine.models.cache import ModelCache\n"
                f"job = planned(prompt='a red ball bounces in a meadow', seed=1, steps=2, frames={frames}, key_frames={keys})\n"
                "job = replace(job, hierarchy=replace(job.hierarchy, facts=replace(job.hierarchy.facts, steps=1)))\n"
                "print(made(job, Path(tempfile.mkdtemp()), ModelCache()).peak_bytes)")
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        peaks[frames] = int(done.stdout.split()[-1])
        print(f"{frames:>4} frames   {peaks[frames] / 2**20:,.0f} MiB   {time.monotonic() - began:.0f} s", flush=True)
    print(f"growth   {peaks[385] / peaks[49] - 1:+.1%}")


@contextmanager
def loaded() -> Iterator[ModelCache]:
    models = ModelCache()
    try:
        yield models
    finally:
        models.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--motions", nargs="+", default=list(world.MOTIONS), choices=world.MOTIONS, help="for 'middle'")
    parser.add_argument("--every", nargs="+", type=int, default=[2, 4], choices=(2, 4, 8), help="given frames of 'middle'")
    parser.add_argument("--scenes", type=int, default=1, help="of each motion, for 'middle'")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="for 'long' and 'rate'")
    options = parser.parse_args()
    torch.set_num_threads(1)
    adapter = planned(prompt="-", key_frames=7, frames=25).hierarchy
    assert adapter is not None
    print(f"stage-two weights: {adapter.adapter.stat().st_size / 1e6:.2f} MB, {json.dumps(adapter.to_json()['levels'][:1])}, trained "
          f"{adapter.facts.trained_steps} steps, {adapter.facts.steps} denoising steps a block")
    with loaded() as models, tempfile.TemporaryDirectory() as folder:
        ways: Mapping[str, Callable[[], None]] = {
            "middle": lambda: middle(models, options.scenes, options.motions, options.every),
            "fill": lambda: fill(models, options.scenes, options.motions),
            "long": lambda: long(models, Path(folder) / "long", options.prompts),
            "given": lambda: given(models, Path(folder) / "given"),
            "colour": lambda: colour(Path(folder) / "colour"), "rate": lambda: rate(models, options.prompts), "memory": memory}
        for part in options.parts:
            ways[part]()


if __name__ == "__main__":
    main()
