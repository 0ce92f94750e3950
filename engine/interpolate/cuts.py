"""Rounds over a video with scene cuts: no window sees both sides of one, and the frames across it hold. Pure.

A cut is the number of the first key frame after it, in frames of the finished clip.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.interpolate.levels import Block


def scene_of(frame: int, cuts: Sequence[int], stride: int) -> int | None:
    """How many cuts are before `frame`; None between the key frames (`stride` apart) on either side of one."""
    if any(cut - stride < frame < cut for cut in cuts):
        return None
    return sum(cut <= frame for cut in cuts)


def parted(blocks: Iterable[Block], cuts: Sequence[int], stride: int) -> tuple[Block, ...]:
    """`blocks`, one for each scene that it makes frames of: all its slots, of which only this scene's are known or made.

    So the windows of a batch still have equally many slots. Frames across a cut are in none.
    """
    if not cuts:
        return tuple(blocks)
    found = []
    for block in blocks:
        scene = {frame: scene_of(frame, cuts, stride) for frame in block.frames}
        for each in sorted({scene[frame] for frame in block.makes} - {None}):  # type: ignore[type-var]
            found.append(Block(block.frames, tuple(frame for frame in block.known if scene[frame] == each),
                               tuple(frame for frame in block.makes if scene[frame] == each)))
    return tuple(found)


def held(cuts: Iterable[int], stride: int, apart: int) -> list[tuple[int, int]]:
    """(frame, the last key frame before its cut) of the frames across cuts in the round that brings frames `apart`."""
    return [(frame, cut - stride) for cut in cuts for frame in range(cut - stride + apart, cut, 2 * apart)]
