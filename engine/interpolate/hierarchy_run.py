"""A hierarchical plan to one verified file, as the same events as any other: key frames, rounds, then the file.

    stage 1 (a clip, or one block) -> key frames, given ones in their places -> [review] -> round by round, blocks in batches -> mp4

Every frame goes to the disk when it is made (`store`), so a run that was killed goes on where it was, and memory does not
grow with the clip. A block's randomness is its seed, a function of (request's seed, round, first frame); the batches are the
plan's; so an interrupted run ends with the same pixels as one that was not.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from engine.digest import file_sha256
from engine.errors import AwaitingReview, InvalidRequest
from engine.events import ClipWritten, CutsFound, Event, Preview, Resumed, Stage, StageStarted, StepDone
from engine.inputs import input_file, read_input
from engine.interpolate.cuts import held, parted
from engine.interpolate.filling import Gap
from engine.interpolate.flow import Pair
from engine.interpolate.interpolator import Interpolator, Window
from engine.interpolate.levels import Block
from engine.interpolate.planning import HierarchyPlan, stage_one_plan, stage_two_plan
from engine.interpolate.store import KEYS, FrameStore
from engine.media.clip import iter_frames
from engine.plan import Plan
from engine.preview import MAX_STRIP_WIDTH, STRIP_HEIGHT, webp
from engine.video.publish import write_atomic
from engine.video.writer import ClipWriter

if TYPE_CHECKING:
    from engine.run import Job

STRIP_FRAMES = 33
"""Most pictures in a film strip: with more, every n-th is shown."""
CHUNK = 8
"""Frames that are handed to the writer at once."""


class HierarchyRun:
    """The state of one run. `job`: of the whole plan: its folder, clock, models and wish to cancel; `one`: makes the job of stage 1."""

    def __init__(self, job: Job, one: Callable[[Plan], Job]) -> None:
        assert job.plan.hierarchy is not None
        self.job, self.one, self.made = job, one, job.plan.hierarchy
        self.levels, self.plan = self.made.levels, job.plan
        edits = [list(self.made.inputs), list(self.made.edits), job.plan.fit]
        self.store = FrameStore(job.workspace, mark_of(self.plan, self.made), edits, (self.plan.height, self.plan.width))
        self.given: dict[int, np.ndarray] = {}
        self.begun: dict[int, np.ndarray] = {}
        """Of the given frames those that were so from the start, as they were then."""
        self.done = self.skipped = 0
        self.first_steps, self.total = self.made.first_steps, self.made.steps

    def events(self) -> Iterator[Event]:
        """Raises as `engine.run.run`, and `AwaitingReview` where the key frames are to be looked at first."""
        yield StageStarted(Stage.ENCODE)
        with self.job.stage(Stage.ENCODE, "image"):
            self.begun = self._read_given(self.made.inputs)
            self.given = self.begun | self._read_given((index, what) for index, what in self.made.edits if isinstance(what, str))
        yield from self._key_frames()
        yield self._strip(0)
        self._tell_keys()
        if self.made.review:
            raise AwaitingReview(f"{self.levels.key_frames} key frames are ready. Look at them, make some anew or put images in their "
                                 "place, then go on.")
        yield from self._rounds()
        yield from self._write()

    # ---- stage 1

    def _read_given(self, wanted: Iterable[tuple[int, str]]) -> dict[int, np.ndarray]:
        """Given frames or replaced key frames, fitted to the clip's size. Raises `InvalidRequest`."""
        found = {}
        for index, name in wanted:
            try:
                found[index] = read_input(replace(self.plan, mode="i2v", input=name), self.job.inputs)[0]
            except InvalidRequest as error:
                raise InvalidRequest("given", f"frame {index}: {error.message}") from error
        return found

    def _key_frames(self) -> Iterator[Event]:
        missing = [index for index in self.levels.keys if self._original(index) is None]
        if missing:
            ways = {"slots": self._from_slots, "video": self._from_video}
            yield from ways.get(self.made.stage_one, self._from_clip)()
        else:
            yield Resumed(self._skip(self.first_steps), self.total)
        again = [(index, what) for index, what in self.made.edits if isinstance(what, int)]
        if any(self.store.read(self.store.key(index, seed)) is None for index, seed in again):
            yield from self._again(again)
        else:
            self._skip(len(again) * self.made.facts.steps)

    def _original(self, index: int) -> np.ndarray | None:
        """A key frame as stage 1 left it: given from the start, or made."""
        return self.begun[index] if index in self.begun else self.store.read(self.store.key(index))

    def _from_clip(self) -> Iterator[Event]:
        """Key frames out of a clip of the model over the whole action: of its frames those that are nearest."""
        job = self.one(stage_one_plan(self.plan))
        try:
            yield from self._clip_and_its_frames(job)
        finally:
            self.job.phase = job.phase  # where memory ran out, if it did
        for name in ("load", "encode", "sample"):
            self.job.seconds[name] += job.seconds[name]

    def _clip_and_its_frames(self, job: Job) -> Iterator[Event]:
        saved, frames = job.look()
        model, text = yield from job.prepare()
        start = yield from job.begin(model, saved, frames)
        steps = job.denoise(model, text, start)  # of all events only steps need other numbers
        while True:
            try:
                event = next(steps)
            except StopIteration as end:
                state = end.value
                break
            yield self._restepped(event) if isinstance(event, StepDone) else event
        self.done = self.first_steps
        wanted = clip_positions(self.levels.key_frames, self.made.clip_frames)
        chunks, taken = model.decode(state.latents[:, job.plan.latent_padding:], job.plan.tile, job.plan.placement.decode), 0
        while taken < job.plan.frames:
            with job.stage(Stage.SAMPLE, "decode"):
                for pixels in next(chunks).numpy():
                    for number, position in enumerate(wanted):
                        if position == taken:
                            self.store.write(self.store.key(self.levels.keys[number]), pixels)
                    taken += 1

    def _restepped(self, event: StepDone) -> StepDone:
        """A step of stage 1 as one of the whole; how long all will take is not known before a block was made."""
        return StepDone(event.stage, event.step, self.total if event.stage is Stage.SAMPLE else event.steps, None)

    def _from_slots(self) -> Iterator[Event]:
        """All key frames in one block, the given ones known."""
        keys = self.levels.keys
        known = tuple(index for index in keys if index in dict(self.made.inputs))
        block = Block(keys, known, tuple(index for index in keys if index not in known))
        yield from self._make([block], 0, self.levels.key_fps, self._original, self.store.key)

    def _from_video(self) -> Iterator[Event]:
        """The frames of a video, or of two, are the key frames. Raises `InvalidRequest` where one is gone or has fewer than it said."""
        keys, levels = self.levels.keys, self.levels
        if not isinstance(levels, Gap):
            yield from self._taken("video", self.made.video, keys, 0)
            return
        yield from self._taken("video", self.made.video, keys[:levels.first], 0)
        yield from self._taken("then", self.made.then, keys[levels.first:], levels.first)

    def _taken(self, field: str, name: str, keys: Sequence[int], before: int) -> Iterator[Event]:
        """The frames of one video become these key frames; `before` were taken already."""
        assert self.job.inputs is not None
        path, done = input_file(self.job.inputs, name, field), 0
        for done, pixels in enumerate(iter_frames(path, width=self.plan.width, height=self.plan.height, fit="crop", field=field), start=1):
            with self.job.stage(Stage.ENCODE, "image"):
                self.store.write(self.store.key(keys[done - 1]), pixels)
            yield StepDone(Stage.ENCODE, before + done, len(self.levels.keys), None)
            if done == len(keys):
                return
        raise InvalidRequest(field, f"has {done} frames that can be decoded, not {len(keys)}. Choose it again, or use flow.")

    def _again(self, again: Sequence[tuple[int, int]]) -> Iterator[Event]:
        """Key frames made anew: each between its neighbours as they were, in a block of its own. Those that are there stay, and are no
        neighbours of others, so that none changes when another one is made anew after it."""
        keys, width = self.levels.keys, min(self.made.facts.slots, len(self.levels.keys))
        for index, seed in again:
            if self.store.read(self.store.key(index, seed)) is not None:
                self._skip(self.made.facts.steps)
                continue
            begin = min(max(0, keys.index(index) - width // 2), len(keys) - width)
            frames = keys[begin:begin + width]
            block = Block(frames, tuple(frame for frame in frames if frame != index), (index,))
            place = functools.partial(self.store.key, again=seed)
            yield from self._make([block], seed, self.levels.key_fps, self._original, place)

    def _tell_keys(self) -> None:
        """Which file is which key frame, for whoever looks at them."""
        again = dict(self.made.edits)
        rows = []
        for index in self.levels.keys:
            edit = again.get(index)
            if index in self.given:
                rows.append({"index": index, "input": edit if isinstance(edit, str) else dict(self.made.inputs)[index]})
            else:
                path = self.store.key(index, edit if isinstance(edit, int) else None)
                rows.append({"index": index, "file": path.relative_to(self.job.workspace).as_posix(), "again": isinstance(edit, int)})
        write_atomic(self.job.workspace / KEYS, json.dumps(rows).encode())

    # ---- stage 2

    def known(self, index: int) -> np.ndarray | None:
        """A frame as it stands in the clip, if there is one yet."""
        if index in self.given:
            return self.given[index]
        if not self.levels.is_key(index):
            return self.store.read(self.store.made(index))
        again = dict(self.made.edits).get(index)
        return self.store.read(self.store.key(index, again if isinstance(again, int) else None))

    def _rounds(self) -> Iterator[Event]:
        cuts = self._cuts() if self.made.video and not self.made.then else ()
        if cuts:
            yield CutsFound(tuple(round(cut / self.levels.fps, 4) for cut in cuts))
        for level in self.levels.levels:
            self._hold(cuts, self.levels.stride >> level.number)
            blocks = parted(level.blocks, cuts, self.levels.stride)  # more than were planned for: batches are cut from these
            for begin in range(0, len(blocks), self.made.blocks_at_once):
                batch = blocks[begin:begin + self.made.blocks_at_once]
                if all(self.store.read(self.store.made(index)) is not None for block in batch for index in block.makes):
                    self._skip(len(batch) * self.made.facts.steps)
                    continue
                yield from self._make(batch, level.number, level.fps, self.known, self.store.made)
                yield self._strip(level.number)

    def _cuts(self) -> tuple[int, ...]:
        """The key frames that begin a new scene. Two frames are held at a time."""
        found, before = [], self.known(0)
        for index in self.levels.keys[1:]:
            frame = self.known(index)
            if before is not None and frame is not None and Pair(before, frame).cut:
                found.append(index)
            before = frame
        return tuple(found)

    def _hold(self, cuts: Sequence[int], apart: int) -> None:
        """Across a cut the last frame before it stays."""
        for index, before in held(cuts, self.levels.stride, apart):
            frame = self.known(before)
            assert frame is not None
            self.store.write(self.store.made(index), frame)

    def _make(self, blocks: Sequence[Block], stream: int, fps: float, look: Callable[[int], np.ndarray | None],
              place: Callable[[int], Path]) -> Iterator[Event]:
        """One batch of blocks, made and stored; its steps are told when they are done, together."""
        yield StageStarted(Stage.SAMPLE)
        with self.job.stage(Stage.SAMPLE), self._interpolator() as maker:
            windows = [Window(tuple(look(frame) if frame in block.known else None for frame in block.frames),
                              tuple(block.frames.index(frame) for frame in block.makes), block_seed(self.plan.seed, stream, block), fps)
                       for block in blocks]
            made = maker.make(windows, self.job.stop_if_cancelled)
            for block, pixels in zip(blocks, made, strict=True):
                for slot, frame in pixels.items():
                    self.store.write(place(block.frames[slot]), frame)
        yield StepDone(Stage.SAMPLE, self._advance(len(blocks) * self.made.facts.steps), self.total, self._left())

    def _interpolator(self) -> Any:
        second = stage_two_plan(self.plan)
        model = self.job.models.get(second)
        model.loras.use(second.loras, self.job.loras)  # the model may be warm, with those of an earlier job or of the key frames
        return Interpolator.opened(model, self.made.adapter, self.made.facts, prompt=self.plan.prompt,
                                   size=(self.plan.height, self.plan.width), tile=self.plan.tile, how=self.plan.placement.decode)

    def _advance(self, steps: int) -> int:
        self.done = min(self.total, self.done + steps)  # a window over a cut is made once for each side
        return self.done

    def _skip(self, steps: int) -> int:
        """As `_advance`, over what an earlier attempt made: it took no time of this one."""
        before = self.done
        self.skipped += self._advance(steps) - before
        return self.done

    def _left(self) -> float:
        """Seconds to the end at the pace so far."""
        return self.job.seconds[Stage.SAMPLE.value] / max(1, self.done - self.skipped) * (self.total - self.done)

    def _strip(self, level: int) -> Preview:
        """The frames so far side by side: key frames after stage 1, then those of each round as it fills."""
        stride = self.levels.stride >> level
        count = (self.levels.frames - 1) // stride + 1
        every = stride * max(1, -(-count // STRIP_FRAMES))
        frames = [self.known(index) for index in range(0, self.levels.frames, every)]
        return Preview(self.done, film_strip(frames, (self.plan.height, self.plan.width)))

    def _write(self) -> Generator[Event, None, None]:
        """All frames in order from the disk into the file."""
        from engine.run import peak_bytes

        plan, job = self.plan, self.job
        yield StageStarted(Stage.DECODE)
        with ClipWriter(job.part, width=plan.width, height=plan.height, fps=plan.fps, frames=plan.frames, recipe=job.recipe,
                        faithful=bool(self.given or self.made.video)) as writer:
            for begin in range(0, plan.frames, CHUNK):
                with job.stage(Stage.DECODE):
                    frames = [self.known(index) for index in range(begin, min(begin + CHUNK, plan.frames))]
                    writer.write(np.stack([frame for frame in frames if frame is not None]))
                yield StepDone(Stage.DECODE, begin + len(frames), plan.frames, None)
            yield StageStarted(Stage.VERIFY)
            with job.stage(Stage.VERIFY):
                writer.finish()
                digest = file_sha256(job.part)
        yield ClipWritten(job.part, writer.poster, digest, job.part.stat().st_size, plan.frames, plan.width, plan.height, plan.fps,
                          dict(job.seconds), peak_bytes(plan.device))


def mark_of(plan: Plan, made: HierarchyPlan) -> dict[str, Any]:
    """What must be equal for stored key frames to be those of this run; edits are not part of it: they come after.

    Nor is how pictures are fitted, where no frame is given: a request says it from the first edit on, and no key frame was made of one.
    """
    request = plan.request().to_json() | {"model": "", "edits": [], "review": False}
    if not made.inputs:
        request["fit"] = None
    return {"request": request, "video": made.video + made.then,
            "models": [plan.spec.fingerprint, made.interpolator.fingerprint, file_sha256(made.adapter)],
            "dtype": plan.dtype, "device": plan.device.split(":")[0], "at_once": made.blocks_at_once, "torch": torch.__version__}


def block_seed(seed: int, stream: int, block: Block) -> int:
    """The seed of a block's noise, 63 bits: a pure function of (request's seed, round or re-roll, first frame)."""
    words = f"{seed} {stream} {block.frames[0]} {block.makes[0]}".encode()
    return int.from_bytes(hashlib.sha256(words).digest()[:8], "big") >> 1


def clip_positions(keys: int, frames: int) -> list[int]:
    """Which frames of a clip of `frames` are its `keys` key frames: evenly spread, first and last included."""
    return [round(number * (frames - 1) / (keys - 1)) for number in range(keys)]


def film_strip(frames: Sequence[np.ndarray | None], size: tuple[int, int]) -> bytes:
    """WebP of frames side by side; those that are not there yet are dark."""
    each = max(1, min(round(STRIP_HEIGHT * size[1] / size[0]), MAX_STRIP_WIDTH // len(frames)))
    height = max(1, round(each * size[0] / size[1]))
    film = Image.new("RGB", (each * len(frames), height), (24, 26, 32))
    for number, frame in enumerate(frames):
        if frame is not None:
            film.paste(Image.fromarray(frame).resize((each, height), Image.Resampling.BICUBIC), (number * each, 0))
    with suppress(OSError):
        return webp(film, 70)
    return webp(film, 10)
