"""The pictures of one clip, by time: at the model's rate, in a bucket's size, never stretched. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, cast

import numpy as np

from engine.errors import InvalidRequest
from engine.media.clip import Span, at_rate, iter_frames, within
from engine.media.probe import VideoFacts
from training.data.files import pictures_in
from training.data.records import Clip

Fit = Literal["crop", "pad"]


def clip_frames(clip: Clip, path: Path, *, frames: int, width: int, height: int, fps: float, fit: str, span: Span,
                start: int = 0) -> np.ndarray:
    """Up to `frames` pictures of the clip's `span` at `fps`, from number `start` of them on: uint8 (n, height, width, 3), n smaller only
    where it ends earlier.

    Raises `InvalidRequest` (field 'video') for what is damaged, or gives nothing at all.
    """
    chosen = list(islice(iterate(clip, path, width=width, height=height, fps=fps, fit=fit, span=span, start=start), frames))
    if not chosen:
        raise InvalidRequest("video", f"no picture is on display between {span[0] + start / fps:.2f} s and "
                                      f"{'its end' if span[1] is None else f'{span[1]:.2f} s'}. Skip less.")
    return np.stack(chosen)


def iterate(clip: Clip, path: Path, *, width: int, height: int, fps: float | None, fit: str, span: Span,
            start: int = 0) -> Iterator[np.ndarray]:
    """As `clip_frames`, one uint8 (height, width, 3) after the other to the end; `fps` None: every stored picture once."""
    how = cast("Fit", fit)
    if clip.kind == "frames":
        return _folder(clip, path, width, height, fps, how, span, start)
    facts = VideoFacts(clip.reader, clip.stream, clip.width, clip.height, clip.frames, clip.fps, clip.seconds, clip.codec, "",
                       clip.variable, False, False, None)
    return iter_frames(path, width=width, height=height, fit=how, fps=fps, start=start, span=span, facts=facts)


def _folder(clip: Clip, path: Path, width: int, height: int, fps: float | None, fit: Fit, span: Span, start: int) -> Iterator[np.ndarray]:
    from engine.media.image import load_image
    from engine.media.probe import probe_image

    pictures = pictures_in(path)
    if not pictures:
        raise InvalidRequest("video", f"the folder {path.name!r} has no pictures any more.")
    facts = probe_image(pictures[0], field="video")
    step = 1 / clip.fps
    shown: Iterator[tuple[float, float, Path]] = ((number * step, step, each) for number, each in enumerate(pictures))
    shown = within(shown, span)
    chosen = (each for _, _, each in shown) if fps is None else at_rate(shown, fps)
    for picture in islice(chosen, start, None):
        yield load_image(picture, width=width, height=height, fit=fit, field="video", facts=facts)
