"""Key frames, then rounds that double the rate: which frames are made when, from which. Pure.

    7 key frames at 1 fps, then 3 rounds to 8 fps: 49 frames

    level 0   0       8       16      24      32      40      48      key frames, over the whole action
    level 1   0   4   8   12  16  ...                                 every second one is known, the others are made
    level 2   0 2 4 6 8 ...
    level 3   0 1 2 3 ...                                             (k - 1) 2^rounds + 1 frames

A round is cut into blocks that share their boundary frames, so blocks of one round depend on known frames alone: they can be
made in any order, or together. CogVideo (https://arxiv.org/abs/2205.15868, section 3.2) has blocks of 5 (3 known, 2 made).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from engine.errors import InvalidRequest

MIN_INTERVALS = 6
"""Between key frames where nothing else is asked for: fewer miss the turning points of a motion."""
MAX_ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Block:
    """One window of a round. All numbers are frame numbers of the finished clip."""

    frames: tuple[int, ...]
    """Of its slots, in order."""
    known: tuple[int, ...]
    makes: tuple[int, ...]
    """Of the frames that are not known those that are kept; windows at the end overlap, and the earlier one wins."""

    @property
    def known_slots(self) -> tuple[int, ...]:
        return tuple(slot for slot, frame in enumerate(self.frames) if frame in self.known)


@dataclass(frozen=True, slots=True)
class Level:
    """One round."""

    number: int
    """From 1."""
    fps: float
    frames: int
    """How many there are after it."""
    blocks: tuple[Block, ...]

    @property
    def makes(self) -> int:
        return sum(len(block.makes) for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The whole clip, from key frames to the last round."""

    frames: int
    fps: float
    key_frames: int
    rounds: int
    given: tuple[int, ...]
    """Frame numbers that the user gave; ascending."""
    levels: tuple[Level, ...]

    @property
    def stride(self) -> int:
        """Frames of the finished clip from one key frame to the next."""
        return 2**self.rounds

    @property
    def key_fps(self) -> float:
        return self.fps / self.stride

    @property
    def keys(self) -> tuple[int, ...]:
        return tuple(range(0, self.frames, self.stride))

    def is_key(self, index: int) -> bool:
        return index % self.stride == 0

    @property
    def given_keys(self) -> tuple[int, ...]:
        return tuple(index for index in self.given if index % self.stride == 0)

    @property
    def blocks(self) -> int:
        return sum(len(level.blocks) for level in self.levels)

    @property
    def slots(self) -> int:
        """Slots of all blocks: what the rounds cost, in latent frames a denoising step."""
        return sum(len(block.frames) for level in self.levels for block in level.blocks)

    def sentence(self) -> str:
        """What will happen, for people."""
        start = f"{self.key_frames} key frames at {self.key_fps:g} fps"
        if self.rounds == 0:
            return f"{start} and no rounds: {self.frames} frames"
        return f"{start}, then {self.rounds} round{'s' if self.rounds > 1 else ''} to {self.fps:g} fps: {self.frames} frames"


def hierarchy(frames: int | None, fps: float, key_frames: int | None, given: Iterable[int] = (), *, most_keys: int,
              slots: int) -> Hierarchy:
    """The levels of a clip.

    frames, key_frames: None where the user did not say. most_keys: the most the first stage can make. slots: of a block, odd, at
    least 3. Raises `InvalidRequest` for numbers that do not go together, and for given frames outside the clip.
    """
    count, keys = _counts(frames, fps, key_frames, most_keys)
    rounds = int(math.log2((count - 1) / (keys - 1)))
    inside = tuple(sorted(given))
    for index in inside:
        if index >= count:
            raise InvalidRequest("given", f"names frame {index}; the clip has {count}, numbered 0 to {count - 1}. Use one of those, or "
                                          "make the clip longer.", suggestion=count - 1)
    levels = []
    for number in range(1, rounds + 1):
        stride = 2 ** (rounds - number)
        levels.append(Level(number, fps / stride, (count - 1) // stride + 1, _blocks(count, stride, frozenset(inside), slots)))
    return Hierarchy(count, fps, keys, rounds, inside, tuple(levels))


def frames_for(seconds: float, fps: float, key_frames: int | None = None, *, most_keys: int) -> int:
    """How many frames come nearest to `seconds` at `fps` and can be made by doubling."""
    wanted = max(1.0, seconds * fps)
    if key_frames is not None:
        intervals = max(1, key_frames - 1)
        return min((intervals * 2**rounds + 1 for rounds in range(MAX_ROUNDS + 1)), key=lambda count: abs(count - 1 - wanted))
    rounds = max(1, math.floor(math.log2(max(fps, 1.0))))
    while rounds > 1 and round(wanted / 2**rounds) < MIN_INTERVALS:
        rounds -= 1
    while round(wanted / 2**rounds) > most_keys - 1:
        rounds += 1
    return max(1, round(wanted / 2**rounds)) * 2**rounds + 1


def _counts(frames: int | None, fps: float, key_frames: int | None, most_keys: int) -> tuple[int, int]:
    """(frames, key frames)."""
    if key_frames is not None and key_frames > most_keys:
        raise InvalidRequest("key_frames", f"is {key_frames}; this model makes at most {most_keys} at once. Use fewer: each round "
                                           "doubles them.", suggestion=most_keys)
    if frames is not None and key_frames is not None and key_frames > frames:
        raise InvalidRequest("key_frames", f"is {key_frames}, and the clip has {frames} frame{'s' if frames > 1 else ''}. Use at most as "
                                           "many as frames.", suggestion=max(2, frames))
    if frames is not None and frames < 2:
        raise InvalidRequest("frames", f"is {frames}; key frames with others between them need at least 3.", suggestion=49)
    if key_frames is None:
        count = frames or frames_for(6.0, fps, most_keys=most_keys)
        return count, _keys_of(count, fps, most_keys)
    if frames is None:
        return frames_for(6.0, fps, key_frames, most_keys=most_keys), key_frames
    rounds = math.log2((frames - 1) / (key_frames - 1))
    if rounds != int(rounds) or rounds > MAX_ROUNDS:
        low = min(MAX_ROUNDS, max(0, math.floor(rounds)))
        options = [(key_frames - 1) * 2**n + 1 for n in (low, min(MAX_ROUNDS, low + 1))]
        near = min(options, key=lambda option: abs(option - frames))
        raise InvalidRequest("frames", f"is {frames}; {key_frames} key frames become {options[0]} or {options[1]} by rounds that double "
                                       f"the rate. The nearest is {near}.", suggestion=near)
    return frames, key_frames


def _keys_of(frames: int, fps: float, most_keys: int) -> int:
    """As few key frames as the rate allows (down to 1 a second), not fewer than a motion needs, not more than can be made."""
    choices = [n for n in range(1, MAX_ROUNDS + 1) if (frames - 1) % 2**n == 0 and (frames - 1) // 2**n + 1 <= most_keys]
    if not choices:
        near = frames_for((frames - 1) / fps, fps, most_keys=most_keys)
        raise InvalidRequest("frames", f"is {frames}; rounds that double the rate make an even number of frames and one more, of at most "
                                       f"{most_keys} key frames. The nearest is {near}.", suggestion=near)
    slow = [n for n in choices if fps / 2**n >= 1 and (frames - 1) // 2**n >= MIN_INTERVALS]
    enough = [n for n in choices if (frames - 1) // 2**n >= MIN_INTERVALS]
    rounds = max(slow) if slow else min(enough) if enough else min(choices)
    return (frames - 1) // 2**rounds + 1


def _blocks(count: int, stride: int, given: frozenset[int], slots: int) -> tuple[Block, ...]:
    """The windows of the round that brings frames `stride` apart."""
    grid = range(0, count, stride)
    width = min(slots, len(grid))
    starts = list(range(0, len(grid) - width + 1, width - 1))
    if starts[-1] != len(grid) - width:
        starts.append(len(grid) - width)
    blocks: list[Block] = []
    made: set[int] = set()
    for start in starts:
        frames = tuple(grid[start:start + width])
        known = tuple(frame for frame in frames if frame % (2 * stride) == 0 or frame in given)
        makes = tuple(frame for frame in frames if frame not in known and frame not in made)
        made.update(makes)
        if makes:
            blocks.append(Block(frames, known, makes))
    return tuple(blocks)


def rate_words(fps: float) -> str:
    """The text before the prompt that names the frame rate, as CogVideo puts it before its words."""
    return f"{fps:g} fps. "
