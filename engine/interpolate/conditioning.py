"""What a stage-two model is told beside the noise: which frames are known, and what they look like.

    channels of a slot   [ noise C | known-frame latents C | known-frame mask 4 ]

A slot is one latent frame. Two layouts:

    frames   every slot is one video frame, encoded alone as an image (no compression in time): key frames, whose neighbours
             differ too much to share a slot, and any rate
    packed   slot 0 is frame 0, slot k frames 4k-3 .. 4k, as the video autoencoder packs them; a known frame is encoded alone

The mask is folded, not resized: each slot has the four bits of its frames (one bit, four times over, where it has one
frame). A resized mask averages a slot's second and third frame and so loses a single known last frame (CogVideoX-Fun's does).

Unknown slots between known frames hold the blend of the nearest known latents on both sides; the mask says which are real.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PACK = 4
"""Frames of a slot after the first, and bits of the folded mask."""
LAYOUTS = ("frames", "packed")


def slot_count(frames: int, layout: str) -> int:
    """Slots of `frames` video frames. Raises ValueError where 'packed' has no whole number of them."""
    if layout == "frames":
        return frames
    if (frames - 1) % PACK:
        raise ValueError(f"{frames} frames do not pack into slots of {PACK}; 4k + 1 do")
    return (frames - 1) // PACK + 1


def slot_of(frame: int, layout: str) -> int:
    """The slot that frame number `frame` lies in."""
    return frame if layout == "frames" else -(-frame // PACK)


def fold_mask(known: Sequence[int], frames: int, layout: str) -> Tensor:
    """float32 (slots, 4): 1 where a frame of the slot is known. Raises ValueError for an index outside 0 .. frames - 1."""
    bits = torch.zeros(frames)
    for index in known:
        if not 0 <= index < frames:
            raise ValueError(f"known frame {index} is not one of 0 .. {frames - 1}")
        bits[index] = 1.0
    if layout == "frames":
        return bits[:, None].repeat(1, PACK)
    slot_count(frames, layout)
    return torch.cat([bits[:1].repeat(PACK)[None], bits[1:].reshape(-1, PACK)])


def filled(latents: Tensor, real: Tensor) -> Tensor:
    """`latents` with each unknown slot between known ones replaced by the blend of the nearest two, weighted by nearness.

    latents: (B, slots, C, h, w); real: bool (B, slots). Slots with known ones on one side only are zeros, as behind the first
    frame of image to video.
    """
    slots = real.shape[1]
    places = torch.arange(slots, device=real.device).expand_as(real)
    left = torch.where(real, places, -1).cummax(dim=1).values
    right = torch.where(real, places, slots).flip(1).cummin(dim=1).values.flip(1)
    between = (left >= 0) & (right < slots)
    share = ((places - left) / (right - left).clamp(min=1)).view(*real.shape, 1, 1, 1).to(latents.dtype)
    pick = lambda at: latents.gather(1, at.clamp(0, slots - 1).view(*real.shape, 1, 1, 1).expand_as(latents))  # noqa: E731
    blend = (1 - share) * pick(left) + share * pick(right)
    return torch.where(between.view(*real.shape, 1, 1, 1), blend, 0.0)


def beside(latents: Tensor, masks: Tensor) -> Tensor:
    """What stands beside the noise: (B, slots, C + 4, h, w).

    latents: (B, slots, C, h, w), scaled, those of known frames in their slots (what stands in other slots is not looked at);
    masks: (B, slots, 4) of `fold_mask`. In a packed slot with a known frame the slot counts as known, its bits say which.
    """
    real = masks.any(dim=-1)
    bits = masks.to(latents.dtype)[..., None, None].expand(*masks.shape, *latents.shape[-2:])
    return torch.cat([filled(latents, real), bits], dim=2)
