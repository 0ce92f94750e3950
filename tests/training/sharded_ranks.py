"""One of two processes that share weights out: `python -m tests.training.sharded_ranks BASE FOLDER...`, each folder a run."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from engine.spec import read_spec
from tests.engine.tiny import CPU
from tests.training.lora_tools import random_set
from training.lora.rundir import RunDir
from training.lora.session import Session
from training.lora.world import the_world

if __name__ == "__main__":
    torch.set_num_threads(1)
    world = the_world(CPU)
    for folder in map(Path, sys.argv[2:]):
        session = Session(RunDir(folder), read_spec(Path(sys.argv[1])), CPU, lambda _model: random_set(), world=world)
        trainer = session.prepare()
        local = sum(value.to_local().numel() if hasattr(value, "to_local") else value.numel()
                    for name, value in trainer.model.transformer.named_parameters() if "lora_" not in name)
        end = session.steps(trainer)
        session.finish(trainer)
        session.say(end, trainer.step)
        (folder / f"share-{world.rank}").write_text(str(local))
