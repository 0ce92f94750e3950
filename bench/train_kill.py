"""Kills a trainer at random moments: `python -m bench.train_kill [--kills 20]`.

One run is never disturbed. The other is killed (SIGKILL) again and again, anywhere from its first import to a half-written checkpoint, and
started again each time until it is done. Prints whether the two exported files, and the last checkpoints, hold the same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from engine.digest import file_sha256
from engine.models.catalogue import find
from engine.spec import read_spec
from training.lora.checkpoint import checkpoints
from training.lora.config import TrainConfig
from training.lora.opening import SAMPLES, save_set
from training.lora.rundir import EXITS, RunDir
from training.lora.samples import HeldSample, HeldSet

ROOT = Path(__file__).resolve().parents[1]


def small_set(channels: int, tokens: int, width: int) -> HeldSet:
    """Random latents of a size at which a step of the pocket takes a tenth of a second."""
    draw = torch.Generator().manual_seed(0)
    entries = []
    for number in range(6):
        mean, std, text = torch.randn(channels, 2, 4, 6, generator=draw), torch.rand(channels, 2, 4, 6, generator=draw), \
            torch.randn(tokens, width, generator=draw)
        entries.append(HeldSample(f"{number:064x}", "held-out" if number == 5 else "train", (5, 32, 48), "", (mean, std),
                                  (mean[:, :1], std[:, :1]), text, torch.zeros(32, 48, 3, dtype=torch.uint8)))
    return HeldSet(tuple(entries), torch.randn(tokens, width, generator=draw))


def prepare(folder: Path, steps: int) -> RunDir:
    run, spec = RunDir(folder), read_spec(find("pocket"), "pocket")
    run.create(TrainConfig(model="pocket", dataset="made", name="made", rank=8, steps=steps, warmup=2, learning_rate=1e-3, dropout=0.1,
                           ema=0.9, threads=1, save_steps=2, eval_steps=10, eval_clips=1, precision="fp32", device="cpu"))
    save_set(folder / SAMPLES, small_set(spec.latent_channels, spec.max_text_tokens, spec.text_width))
    return run


def start(run: RunDir) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-m", "training", str(run.folder)], cwd=ROOT, stdout=quiet, stderr=quiet,
                            env=os.environ | {"PYTHONPATH": str(ROOT)})


def kill(process: subprocess.Popen[bytes], run: RunDir, chance: random.Random, *, startup: float, share: float) -> bool:
    """Kills the trainer: in three of ten cases while it starts, else up to `share` seconds after a step. False: it was done before."""
    end = time.monotonic() + (chance.uniform(0, startup) if chance.random() < 0.3 else 3600.0)
    before, armed = len(run.events()), end < time.monotonic() + 3000
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
        if not armed and any(event["kind"] == "step" for event in run.events()[before:]):
            end, armed = time.monotonic() + chance.uniform(0, share), True
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.train_kill", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(argv)
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole, killed = prepare(Path(scratch) / "whole", asked.steps), prepare(Path(scratch) / "killed", asked.steps)
        begun = time.monotonic()
        if start(whole).wait() != EXITS["done"]:
            raise SystemExit(f"the undisturbed run ended as {whole.state()}")
        length = time.monotonic() - begun
        stepping = max(event["seconds"] for event in whole.events() if event["kind"] == "step")
        kills, phases = 0, []
        while True:
            process = start(killed)
            if kills >= asked.kills:
                if process.wait() != EXITS["done"]:
                    raise SystemExit(f"the killed run ended as {killed.state()}")
                break
            if not kill(process, killed, chance, startup=length - stepping, share=1.2 * stepping / asked.kills):
                break
            kills += 1
            phases.append(killed.state().step)
        same = file_sha256(whole.lora_file("made")) == file_sha256(killed.lora_file("made"))
        parts = ("adapter.safetensors", "average.safetensors", "optimizer.safetensors")
        last = [checkpoints(run.checkpoints)[0] for run in (whole, killed)]
        states = all((last[0] / part).read_bytes() == (last[1] / part).read_bytes() for part in parts)
        print(f"{kills} kills (SIGKILL), the run then said steps {phases}")
        print(f"exported file byte-equal: {same}; weights, average and optimizer of the last checkpoint byte-equal: {states}")
    return 0 if same and states else 1


if __name__ == "__main__":
    raise SystemExit(main())
