"""Markup of key frames: those that wait for their owner, the given ones on a timeline, and a clip's hierarchy.

    keys_html(job, frames)       each key frame with "Make anew" and "Replace", while the rounds wait
    timeline_html(known)         first, middle and last image of the clip to be made
    hierarchy_html(clip)         levels, blocks and given frames of a finished clip
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.history.records import Clip, Job
from app.key_frames import KeyFrame
from app.ui.html.common import button, esc
from app.ui.html.source import ACCEPT

SOURCES = {"made": "", "again": "made anew", "given": "your image"}
PLACES = (("first", "First"), ("middle", "Middle"), ("last", "Last"))
MOST_MARKS = 200
TIMELINE = {"": "Images the clip passes through, if you have some", "masked": "Images this model is shown, if you have some",
            "ends": "This model is shown the first frame, which the clip starts from, and the last one"}


def keys_html(job: Job, frames: Sequence[KeyFrame]) -> str:
    """The key frames of a job that waits, in order."""
    tiles = "".join(_key(job, frame) for frame in frames)
    return f'<ol class="keys" aria-label="Key frames">{tiles}</ol>'


def _key(job: Job, frame: KeyFrame) -> str:
    fps = job.request.get("fps") or 8.0
    said = SOURCES[frame.source]
    words = f"{frame.index / fps:.1f} s" + (f" · {said}" if said else "")
    # The same key frame may change: the row's count says when to fetch it again.
    image = f'<img src="/media/keys/{job.id}/{frame.index}.webp?v={job.status_seq}" alt="Key frame at {frame.index / fps:.1f} seconds">'
    again = "" if frame.source == "given" else button("Make anew", "key_again", kind="small", job=job.id, index=frame.index)
    replace = button("Replace…", "choose", kind="small", purpose=f"key-{job.id}-{frame.index}", accept=ACCEPT["i2v"])
    return f'<li class="key key-{frame.source}">{image}<span>{esc(words)}</span><div>{again}{replace}</div></li>'


def keys_actions(job: Job) -> str:
    """What can be done with all of them."""
    return button("Go on to the rounds", "go_on", kind="primary", job=job.id) + button("Cancel", "cancel", job=job.id)


def timeline_html(known: Mapping[str, str], *, on: bool, shown: str = "") -> str:
    """Images that the clip passes through. `known`: place -> name of an input; `on`: whether any can be; `shown`: of a model that is
    shown them all at once, `ModelSpec.shown`."""
    if not on:
        return '<p class="timeline-off quiet">Choose a frame rate to make key frames first, then the frames between them.</p>'
    places = [pair for pair in PLACES if shown != "ends" or pair[0] == "last"]  # its first frame is what the clip starts from
    slots = "".join(_slot(place, label, known.get(place, "")) for place, label in places)
    others = [(place, name) for place, name in known.items() if place not in dict(places)]
    more = "".join(f"<li>{esc(f'Frame {place}')} {button('Remove', 'unknown', kind='link small', place=place)}</li>" for place, _ in others)
    return (
        f'<section class="timeline" aria-label="Images in the clip"><p class="quiet">{TIMELINE[shown]}</p>'
        f'<ol>{slots}</ol>{f"<ul>{more}</ul>" if more else ""}</section>'
    )


def _slot(place: str, label: str, name: str) -> str:
    choose = {"purpose": f"known-{place}", "accept": ACCEPT["i2v"]}
    if not name:
        return f'<li class="slot">{button(f"+ {label}", "choose", kind="slot-add", title=f"{label} image of the clip", **choose)}</li>'
    picture = f'<img src="/media/inputs/{esc(name)}.webp?width=192&amp;height=128&amp;fit=crop" alt="{esc(label)} image of the clip">'
    return f'<li class="slot filled">{picture}<span>{label}</span>{button("Remove", "unknown", kind="link small", place=place)}</li>'


def hierarchy_html(clip: Clip) -> str:
    """How a clip was made, round by round; '' for one that was made at once. A recipe comes from a file, so nothing in it is trusted."""
    said = clip.recipe.get("hierarchy") if isinstance(clip.recipe, dict) else None
    if not isinstance(said, dict) or not isinstance(said.get("levels"), list):
        return ""
    given, edited = _numbers(said.get("given")), _numbers(said.get("edited"))
    stride = max(1, said["stride"]) if isinstance(said.get("stride"), int) else 1
    between = frozenset(_numbers(said.get("between")))
    if between:
        rows = [_level("Frames of both clips", said.get("key_fps"), said.get("key_frames"), "", _fill_marks(clip.frames, between, stride))]
    else:
        marks = _marks(clip.frames, stride, stride * 2, given, edited)
        rows = [_level("Key frames", said.get("key_fps"), said.get("key_frames"), "", marks)]
    for number, level in enumerate(said["levels"][:16], start=1):
        if not isinstance(level, dict):
            continue
        fresh = max(1, stride >> number)
        blocks = level.get("blocks")
        words = f"{level.get('makes')} made in {blocks} block{'' if blocks == 1 else 's'}"
        marks = _fill_marks(clip.frames, between, fresh) if between else _marks(clip.frames, fresh, fresh * 2, given, ())
        rows.append(_level(f"Round {number}", level.get("fps"), level.get("frames"), words, marks))
    legend = "" if not given else '<p class="quiet"><i class="mark given"></i> your images, unchanged in the clip</p>'
    return (
        f'<section class="hierarchy"><h2>How it was made</h2><p>{esc(str(said.get("sentence", ""))[:200])}</p>'
        f'<ol>{"".join(rows)}</ol>{legend}</section>'
    )


def _level(name: str, fps: Any, frames: Any, words: str, marks: str) -> str:
    rate = f"{fps:g} fps" if isinstance(fps, (int, float)) and not isinstance(fps, bool) else "?"
    many = f"{frames} frames" if isinstance(frames, int) else ""
    line = " · ".join(part for part in (rate, many, words) if part)
    return f'<li><b>{esc(name)}</b> <span class="quiet">{esc(line)}</span><div class="marks" aria-hidden="true">{marks}</div></li>'


def _marks(frames: int, stride: int, old: int, given: Sequence[int], edited: Sequence[int]) -> str:
    """One mark a frame of the level: what was there, what was made, what was given."""
    last = max(1, frames - 1)
    places = range(0, frames, max(stride, -(-frames // MOST_MARKS)))
    there = [index for index in given if 0 <= index < frames and index % stride == 0]
    kind_of = lambda index: "given" if index in there else "edited" if index in edited else "old" if index % old == 0 else "new"  # noqa: E731
    kinds = [(kind_of(index), index) for index in places]
    kinds += [("given", index) for index in there if index not in places]
    return "".join(f'<i class="mark {kind}" style="left:{index / last * 100:.2f}%"></i>' for kind, index in kinds)


def _fill_marks(frames: int, between: frozenset[int], apart: int) -> str:
    """As `_marks`, where frames of two clips are `old` and those between them were made, `apart` from each other."""
    last, begin, shown = max(1, frames - 1), min(between) - 1, []
    for index in range(0, frames, max(1, -(-frames // MOST_MARKS))):
        if index not in between:
            shown.append(("old", index))
        elif (index - begin) % apart == 0:
            shown.append(("new" if (index - begin) // apart % 2 else "old", index))
    return "".join(f'<i class="mark {kind}" style="left:{index / last * 100:.2f}%"></i>' for kind, index in shown)


def _numbers(value: object) -> tuple[int, ...]:
    return tuple(n for n in value[:256] if isinstance(n, int)) if isinstance(value, list) else ()
