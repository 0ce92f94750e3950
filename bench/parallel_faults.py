"""A rank killed in each phase of one clip, and one stopped: how soon it is noticed, and whether the clip is still that of one rank.

    python -m bench.parallel_faults

The pocket on ranks of the processor, cfg=2. Exit status 1 where a loss took more than 30 s to be noticed, a process was left behind, or
the frames differ.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.events import Event, RanksRestarted, Stage, StageStarted, StepDone
from engine.hardware import detect
from engine.models.cache import ModelCache
from engine.models.catalogue import find
from engine.parallel.drive import run_on_fleet
from engine.parallel.fleet import _runs
from engine.plan import plan
from engine.request import GenerationRequest
from engine.run import run
from engine.spec import read_spec
from engine.video.recipe import build_recipe

BLOWS = [(Stage.LOAD, signal.SIGKILL), (Stage.ENCODE, signal.SIGKILL), (Stage.SAMPLE, signal.SIGKILL), (Stage.DECODE, signal.SIGKILL),
         (Stage.SAMPLE, signal.SIGSTOP)]
LIMIT = 30.0


def frames(path: Path) -> np.ndarray:
    with av.open(path) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])


def at(event: Event, stage: Stage) -> bool:
    """The moment of a blow: when a stage begins, in sampling after its third step."""
    if stage is Stage.SAMPLE:
        return isinstance(event, StepDone) and event.stage is stage and event.step == 3
    return isinstance(event, StageStarted) and event.stage is stage


def main() -> int:
    logging.disable(logging.WARNING)
    spec, machine = read_spec(find("pocket"), "pocket"), detect("cpu")
    made = plan(GenerationRequest(prompt="a red ball bounces", seed=3, steps=8, frames=9, parallel="cfg=2"), spec, machine)
    folder, models, recipe = Path(tempfile.mkdtemp()), ModelCache(), build_recipe(made)
    single = ModelCache()
    for _ in run(replace(made, parallel="", devices=()), part=folder / "alone.part", workspace=folder / "alone", recipe=recipe,
                 models=single, cancelled=lambda: False):
        pass
    single.close()
    expected, well = frames(folder / "alone.part"), True
    for number, (stage, blow) in enumerate(BLOWS):
        struck, seen, pids, part = 0.0, 0.0, {}, folder / f"{number}.part"
        for event in run_on_fleet(made, part=part, workspace=folder / str(number), recipe=recipe, models=models, cancelled=lambda: False,
                                  checkpoint_seconds=0):
            if not struck and models.fleet is not None and at(event, stage):
                struck, pids = time.monotonic(), models.fleet.pids
                os.kill(pids[1], blow)
            if isinstance(event, RanksRestarted):
                seen, left, why = time.monotonic() - struck, sum(map(_runs, pids.values())), event.why
        equal = bool(np.array_equal(frames(part), expected))
        well = well and 0 < seen <= LIMIT and not left and equal
        print(f"rank 1 {blow.name:8} in {stage.value:7} noticed and all ended after {seen:5.1f} s ({why}), {left} left behind, frames "
              f"{'equal' if equal else 'DIFFER'}", flush=True)
    models.close()
    print(f"every loss noticed within {LIMIT:.0f} s, nothing left behind, the clip of one rank: {'yes' if well else 'NO'}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
