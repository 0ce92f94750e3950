"""What a run of a hierarchy decides from step to step, without a model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from engine.interpolate.hierarchy_run import HierarchyRun
from engine.interpolate.levels import hierarchy


def test_scenes_make_no_batch_larger_than_planned() -> None:
    run, sizes = HierarchyRun.__new__(HierarchyRun), []
    run.levels = hierarchy(49, 8.0, 25, most_keys=49, slots=13)
    run.made = SimpleNamespace(video="x", then="", blocks_at_once=2, facts=SimpleNamespace(steps=1))  # type: ignore[assignment]
    run.store = SimpleNamespace(read=lambda path: None, made=lambda index: Path("none"))  # type: ignore[assignment]
    run._cuts = lambda: (6, 18, 30)  # type: ignore[method-assign]
    run._hold = lambda *_: None  # type: ignore[method-assign]
    run._strip = lambda level: None  # type: ignore[assignment,method-assign,return-value]
    run._make = lambda batch, *_: iter(sizes.append(len(batch)) or ())  # type: ignore[assignment,func-returns-value,method-assign]
    list(run._rounds())
    assert max(sizes) == 2 and sum(sizes) > len(run.levels.levels[0].blocks)


def test_the_pace_is_of_what_this_attempt_made() -> None:
    run = HierarchyRun.__new__(HierarchyRun)
    run.total, run.done, run.skipped = 100, 0, 0
    run.job = SimpleNamespace(seconds={"sample": 20.0})  # type: ignore[assignment]
    run._skip(80)
    run._advance(10)
    assert run._left() == 20.0


def test_a_key_frame_made_anew_does_not_see_images_put_in_afterwards() -> None:
    run, seen = HierarchyRun.__new__(HierarchyRun), {}
    start, later, made = (np.full((2, 2, 3), value, np.uint8) for value in (1, 2, 3))
    run.levels = hierarchy(9, 8.0, 3, most_keys=49, slots=3)
    run.made = SimpleNamespace(facts=SimpleNamespace(slots=3), inputs=((0, "start"),))  # type: ignore[assignment]
    run.store = SimpleNamespace(read=lambda path: made if path == "key" else None,  # type: ignore[assignment]
                                key=lambda index, again=None: "key" if again is None else "again")
    run.begun, run.given = {0: start}, {0: later, 8: later}
    run._make = lambda blocks, seed, fps, look, place: iter(seen.update({at: look(at) for at in (0, 8)}) or ())  # type: ignore
    list(run._again([(4, 7)]))
    assert seen[0] is start and seen[8] is made
