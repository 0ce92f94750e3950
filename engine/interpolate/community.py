"""What stands beside the noise for the two published ways to give CogVideoX-type models more than a first frame.

    first_and_last    32 channels: 16 noise + 16: the first frame's latents in the first slot, the last frame's, encoded alone, in
                      the last, zeros between; no mask                             (feizc's CogvideX-Interpolation)
    masked_video      33 channels: 16 noise + 1 mask + 16 latents of the masked video, unknown pixels -1; the mask (1: known) and the
                      latents multiplied by the autoencoder's scale                (CogVideoX-Fun's InP models)

The trap of the second: its mask is resized over time, first frame apart, so a slot's value is the mean of the second and third of
its four frames. A single known last frame leaves 0 in its slot, and the model is not told of it. `known_run` is how many
frames an image must be repeated for so that its slot says 1; `with_runs` does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from engine.interpolate.conditioning import PACK, slot_count

if TYPE_CHECKING:
    from engine.spec import ModelSpec

T = TypeVar("T")
UNKNOWN = -1.0
"""Of a pixel that is not known, in -1 .. 1."""
SHOWN_NOISE = 0.0563
"""Standard deviation of the noise on known pixels, in -1 .. 1, that CogVideoX-Fun 1.1 has at work."""


def first_and_last(first: Tensor, last: Tensor, slots: int) -> Tensor:
    """(B, slots, C, h, w) from the scaled latents (B, C, h, w) of two frames, each encoded alone."""
    beside = first.new_zeros((first.shape[0], slots, *first.shape[1:]))
    beside[:, 0], beside[:, -1] = first, last
    return beside


def resized_mask(known: Sequence[bool], size: tuple[int, int]) -> Tensor:
    """float32 (slots, 1, h, w): the mask as CogVideoX-Fun resizes it (trilinear, first frame apart). known: a bool a frame, 4k + 1."""
    bits = torch.tensor(known, dtype=torch.float32)
    slots = slot_count(len(known), "packed")
    if slots == 1:
        return bits[:1, None, None, None].expand(1, 1, *size)
    rest = torch.nn.functional.interpolate(bits[1:][None, None], size=slots - 1, mode="linear", align_corners=False)[0, 0]
    return torch.cat([bits[:1], rest])[:, None, None, None].expand(slots, 1, *size)


def with_runs(images: Mapping[int, Tensor], frames: int) -> dict[int, Tensor]:
    """`images` by frame with each repeated over the frames of its slot, so that the resized mask says 1 there.

    An image that is given for a frame of its own is not replaced by a neighbour's repeat.
    """
    return _runs(images, frames)


def _runs(things: Mapping[int, T], frames: int) -> dict[int, T]:
    found: dict[int, T] = {}
    for index, thing in things.items():
        for frame in known_run(index, frames):
            found.setdefault(frame, thing)
    return found | dict(things)


def known_run(index: int, frames: int) -> range:
    """The frames of the slot that frame `index` lies in."""
    if index == 0:
        return range(1)
    first = (index - 1) // PACK * PACK + 1
    return range(first, min(first + PACK, frames))


def masked_video(images: Mapping[int, Tensor], frames: int, encode: Callable[[Tensor], Tensor], scale: float) -> Tensor:
    """(1, slots, 1 + C, h, w): mask and masked video as the 33-channel models want them.

    images: frame -> (3, height, width) in -1 .. 1; encode: (1, 3, frames, height, width) -> unscaled latents (1, C, slots, h, w).
    """
    known = with_runs(images, frames)
    shape = next(iter(images.values())).shape
    video = torch.full((1, 3, frames, *shape[1:]), UNKNOWN)
    for index, image in known.items():
        video[0, :, index] = image
    latents = encode(video)
    return mask_and_video(latents, tuple(images), frames, (1, latents.shape[2], *latents.shape[1:2], *latents.shape[3:]), scale)


def mask_and_video(latents: Tensor | None, known: Sequence[int], frames: int, shape: Sequence[int], scale: float) -> Tensor:
    """(1, slots, 1 + C, h, w) from the unscaled latents (1, C, slots, h, w) of the masked video; zeros for None: nothing is known.

    `shape`: of the clip's latents, (1, slots, C, h, w); where it has more slots than the video (1.5 wants whole patches in time) the
    first one stands in front once more, as the clip's own padding does.
    """
    if latents is None:
        return torch.zeros(1, shape[1], shape[2] + 1, *shape[3:])
    there = with_runs(dict.fromkeys(known, torch.empty(0)), frames)
    mask = resized_mask([index in there for index in range(frames)], (shape[3], shape[4]))
    video = torch.cat([mask[None].to(latents), latents.permute(0, 2, 1, 3, 4)], dim=2) * scale
    return torch.cat([video[:, :1]] * (shape[1] - video.shape[1]) + [video], dim=1)


def shown_parts(spec: ModelSpec, pictures: np.ndarray, known: Sequence[int], frames: int, seed: int) -> list[np.ndarray]:
    """What is encoded for a model that is shown frames, each part by itself: uint8 (n, height, width, 3).

    `pictures`: of the frames `known`, ascending. 'ends': the first, then the last. 'masked': one video of `frames`, black where nothing is
    known (0 is -1), with the noise it was trained with on what is; none where nothing is known.
    """
    if spec.shown == "ends":
        return [pictures[:1], pictures[1:]]
    if not len(pictures):
        return []
    video = np.zeros((frames, *pictures.shape[1:]), np.uint8)
    rng = np.random.Generator(np.random.PCG64(seed))
    places = {index: number for number, index in enumerate(known)}
    for frame, number in _runs(places, frames).items():
        picture = pictures[number].astype(np.float32)
        if spec.noisy_frames:
            picture += rng.standard_normal(picture.shape, np.float32) * (SHOWN_NOISE * 127.5)
        video[frame] = np.rint(picture.clip(0, 255))
    return [video]
