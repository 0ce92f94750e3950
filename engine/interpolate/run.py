"""One interpolation as a generator of events: read, move pixels, encode piece by piece, join, check. No torch.

    frames by their time -> (before, after, place) for each frame of the result -> given frame, or flow -> segments -> mp4

In memory are two frames of the source and what is known of the motion between them, however long the video is.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from engine.digest import file_sha256
from engine.errors import Cancelled, InvalidRequest, OutputRejected
from engine.events import CheckpointSaved, ClipWritten, CutsFound, Event, Resumed, SoundLeftOut, Stage, StageStarted, StepDone
from engine.inputs import input_file
from engine.interpolate.flow import Pair
from engine.interpolate.plan import InterpolatePlan
from engine.interpolate.segments import Segment, SegmentWriter, join, whole_segments
from engine.interpolate.sound import Sound, Unheard
from engine.interpolate.timing import Between, placed
from engine.media.clip import iter_timed
from engine.media.probe import VideoFacts, probe_video
from engine.process_memory import begin_peak, peak_resident
from engine.video.probe import probe
from engine.video.recipe import app_version, comment
from engine.video.seal import seal
from engine.video.signing import credentials
from engine.video.still import poster

SEGMENT_FRAMES, LEAST_SEGMENT = 96, 24
"""Frames of a piece, at most 1280 x 720; fewer of larger frames, so that a killed job repeats about as much work."""
TELL_SECONDS = 0.2

log = logging.getLogger(__name__)


def run(plan: InterpolatePlan, *, part: Path, workspace: Path, recipe: Mapping[str, Any], cancelled: Callable[[], bool],
        inputs: Path) -> Iterator[Event]:
    """Stages load, interpolate and verify; the last event is `ClipWritten`, before it `CutsFound` where there were cuts.

    `workspace` keeps what an earlier attempt made; the bytes of `part` are the same, however often it was interrupted.
    `recipe` gets the cuts. Raises InvalidRequest for a video that is gone or cannot be read, Cancelled, StorageBlocked,
    OutputRejected.
    """
    if plan.then:
        from engine.interpolate.filling_run import Filling

        return Filling(plan, part, workspace, recipe, cancelled, inputs).events()
    return Interpolation(plan, part, workspace, recipe, cancelled, inputs).events()


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of the source."""

    number: int
    seconds: float
    pixels: np.ndarray


class Interpolation:
    """The state of one run."""

    def __init__(self, plan: InterpolatePlan, part: Path, workspace: Path, recipe: Mapping[str, Any],
                 cancelled: Callable[[], bool], inputs: Path) -> None:
        self.plan, self.part, self.workspace, self.recipe, self.cancelled = plan, part, workspace, recipe, cancelled
        self.inputs, self.path = inputs, input_file(inputs, plan.video, "video")
        self.each = min(SEGMENT_FRAMES, max(LEAST_SEGMENT, SEGMENT_FRAMES * 1280 * 720 // (plan.width * plan.height)))
        self.seconds = {stage.value: 0.0 for stage in (Stage.LOAD, Stage.INTERPOLATE, Stage.VERIFY)}
        self.pair: tuple[int, Pair] | None = None
        self.cuts: set[float] = set()
        self.origin = 0.0
        self.unheard = False
        self.began, self.told = 0.0, 0.0

    def events(self) -> Iterator[Event]:
        begin_peak()
        cv2.setNumThreads(1)  # DIS gives other last bits with another number of threads, and encoding takes the other cores
        yield StageStarted(Stage.LOAD)
        with self.clock(Stage.LOAD):
            facts = self.source()
            mark = _mark(self.plan)
            segments = whole_segments(self.workspace, mark, self.each)
        yield StageStarted(Stage.INTERPOLATE)
        yield from self.make(facts, mark, segments)
        yield StageStarted(Stage.VERIFY)
        with self.clock(Stage.VERIFY):
            self.stop_if_cancelled()
            written = self.joined(facts, segments)
        if self.unheard:
            yield SoundLeftOut()
        cuts = all_cuts(segments)
        if cuts:
            yield CutsFound(cuts, faded=bool(self.plan.then))
        yield written()

    def source(self) -> VideoFacts:
        """Facts of the video, once it is known to be what the plan was made for."""
        return unchanged(self.path, "video")

    def make(self, facts: VideoFacts, mark: str, segments: list[Segment]) -> Iterator[Event]:
        """Every piece that is not there yet, appended to `segments`."""
        done = sum(segment.frames for segment in segments)
        if done:
            yield Resumed(done, self.plan.frames)
        frames = islice(self.frames(facts, done), done, None)
        self.began, start = time.perf_counter(), done
        last: Between[Frame] | None = next(frames, None)
        while last is not None:
            with self.clock(Stage.INTERPOLATE):
                writer = SegmentWriter(self.workspace, len(segments), done, width=self.plan.width, height=self.plan.height,
                                       fps=self.plan.fps, mark=mark)
            self.cuts = set()
            with writer:
                while last is not None and writer.frames < self.each:
                    with self.clock(Stage.INTERPOLATE):
                        writer.add(self.picture(last))
                        last = next(frames, None)
                    done += 1
                    yield from self.tell(done, start)
                    self.stop_if_cancelled()
                with self.clock(Stage.INTERPOLATE):
                    segments.append(writer.finish(tuple(sorted(self.cuts)), last is None))
            del writer
            gc.collect()  # PyAV's objects hold each other, and with them the encoder's frames, until the collector comes by
            yield CheckpointSaved(done, self.workspace)
        if not segments:
            raise InvalidRequest("video", "has no frame that can be decoded. Convert it to an H.264 mp4.")

    def frames(self, facts: VideoFacts, done: int) -> Iterator[Between[Frame]]:
        """All frames of the result. Pictures that only the first `done` of them need are not painted: those that another one has
        followed by the time of the first frame that is to be made."""
        plan = self.plan
        shown = iter_timed(self.path, width=plan.width, height=plan.height, fit="crop", facts=facts,
                           gone_by=done / (plan.fps * plan.slow))
        return placed(((now, length, Frame(number, now, pixels)) for number, (now, length, pixels) in enumerate(shown)),
                      plan.fps, plan.slow)

    def picture(self, wanted: Between[Frame]) -> np.ndarray:
        """A given frame as it is, another one between its neighbours: uint8 (height, width, 3)."""
        if wanted.after is None:
            return wanted.before.pixels
        if self.pair is None or self.pair[0] != wanted.before.number:
            self.pair = wanted.before.number, Pair(*map(np.ascontiguousarray, (wanted.before.pixels, wanted.after.pixels)))
        if self.pair[1].cut:
            self.cuts.add(round(wanted.after.seconds, 4))
        return self.made(self.pair[1], wanted.place)

    def made(self, pair: Pair, place: float) -> np.ndarray:
        """A frame that is not given."""
        return pair.at(place)

    def tell(self, done: int, start: int) -> Iterator[Event]:
        now = time.perf_counter()
        if now - self.told >= TELL_SECONDS:
            self.told = now
            total = max(self.plan.frames, done)
            yield StepDone(Stage.INTERPOLATE, done, total, (now - self.began) / (done - start) * (total - done))

    def joined(self, facts: VideoFacts, segments: list[Segment]) -> Callable[[], ClipWritten]:
        """The one file, checked. Called once more it says so, with the time that checking took."""
        plan, total = self.plan, sum(segment.frames for segment in segments)
        cuts = all_cuts(segments)
        recipe = dict(self.recipe) | ({"cuts": list(cuts)} if cuts else {})
        write = partial(join, self.part, self.workspace, segments, plan.fps, recipe, comment(recipe))
        self.unheard = plan.sound and not self._joined_with_sound(facts, write)
        if self.unheard or not plan.sound:
            write(None)
        found = probe(self.part)
        if (found.frames, found.width, found.height) != (total, plan.width, plan.height):
            raise OutputRejected(f"the written file holds {found.frames} frames of {found.width} x {found.height} instead of "
                                 f"{total} of {plan.width} x {plan.height}. The disk may be failing; try again.")
        still = seal(self.part, _still(self.part, total // 2), recipe, credentials())
        digest, size = file_sha256(self.part), self.part.stat().st_size
        return lambda: ClipWritten(self.part, still, digest, size, total, plan.width, plan.height, plan.fps, dict(self.seconds),
                                   peak_resident())

    def _joined_with_sound(self, facts: VideoFacts, write: Callable[[Sound], None]) -> bool:
        """False where the sound can be neither copied nor packed."""
        try:
            with Sound(self.path, facts, self._first_time(facts)) as sound:
                write(sound)
        except Unheard as error:
            log.warning("joined without sound: %s", error)
            return False
        return True

    def _first_time(self, facts: VideoFacts) -> float:
        """When the first picture is shown, seconds in the source."""
        shown = iter_timed(self.path, width=self.plan.width, height=self.plan.height, fit="crop", facts=facts, unpainted=1)
        return next(iter(shown))[0]

    @contextmanager
    def clock(self, stage: Stage) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage.value] += time.perf_counter() - begun

    def stop_if_cancelled(self) -> None:
        if self.cancelled():
            raise Cancelled("stopped on request.")


def unchanged(path: Path, field: str) -> VideoFacts:
    """Facts of an input. Raises InvalidRequest where it is not what its name says any more."""
    name = path.name
    try:
        same = name.partition(".")[0] == file_sha256(path)
    except OSError as error:
        raise InvalidRequest(field, f"its file {name[:12]}... cannot be read ({error.strerror}).") from error
    if not same:
        raise InvalidRequest(field, f"its file {name[:12]}... was changed after it was added. Choose the video again.")
    return probe_video(path)


def all_cuts(segments: list[Segment]) -> tuple[float, ...]:
    """Of all pieces, in order; one at the border of two is found by both."""
    return tuple(sorted({cut for segment in segments for cut in segment.cuts}))


def _mark(plan: InterpolatePlan) -> str:
    """What must be equal for pieces to go together: the plan and the versions that compute and encode it."""
    asked = plan.to_json() | {"opencv": cv2.__version__, "av": av.__version__, "sprocket": app_version()}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _still(path: Path, number: int) -> bytes:
    with av.open(str(path.absolute()), format="mp4") as container:
        frame = next(islice(container.decode(container.streams.video[0]), number, None))
        return poster(frame.to_ndarray(format="rgb24"))
