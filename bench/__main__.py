"""`make bench`: runs every measurement in turn, each in its own process, and keeps what it printed.

    python -m bench [NAME ...]        all, or the named ones; output also goes to bench/results/NAME.txt
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
BENCHES = {
    "clean_clone": "a fresh clone to its first video, and what the shipped weights weigh",
    "startup": "sprocket generate from a cold process; memory of the web process; first answer and cancel over HTTP",
    "engine_vs_pipeline": "our loop against diffusers' CogVideoXPipeline: same weights, same frames, time ratio",
    "video_io": "writing against diffusers' export_to_video at equal quality, reading against imageio, encoding behind decoding",
    "caches": "caches and the CFG gate on the pocket: transformer arithmetic saved, PSNR to the exact clip",
    "meta_memory": "live storage of the real classes at true sizes on the meta device, against the planner's formulas",
    "hierarchy": "frames between frames against flow; 97 frames by hierarchy against a sliding window; memory of long clips",
    "streaming": "streamed blocks against resident ones: bytes a pass, blocks at once, bits, time",
    "flow": "motion interpolation against ffmpeg minterpolate and blending on held-out clips: PSNR, time; memory of long videos",
    "parallel": "two ranks against two copies at the same time: differences, bytes on the wire, share of the ceiling, peak of a decode",
    "parallel_faults": "a rank killed in each phase, and one stopped: seconds until it is noticed, what is left behind, the frames",
    "parallel_prediction": "the cost model for 1 to 12 GPUs beside xDiT's published steps; a prediction",
    "chaos": "kill -9, stopped processes, a full disk and a jumping clock: jobs lost, published twice, broken files",
    "power_loss": "what a disk may hold after a power loss at each step of a job: jobs lost, files that are not whole",
    "sharing": "100 pages open and 20 people submitting at once: page actions, memory, nothing lost or doubled",
    "soak": "1,000 jobs through one server: memory, open files, temporary files",
    "bad_input": "71 groups of bad input against a running server: what came back, and what must never happen",
    "train_base": "a LoRA's gradient with the base recomputed, offloaded, streamed (bits) and in 8 bits (cosine)",
    "train_memory": "a LoRA of rank 64 on CogVideoX-5B at 49 x 480 x 720: plans from 80 to 8 GiB, live bytes counted on the meta device",
    "train_loop": "the trainer against the plain peft + diffusers loop: gradients, memory, time",
    "pocket_eval": "the pocket model on held-out captions, by classical vision",
}


def run(name: str) -> bool:
    """Runs one bench, showing and keeping its output; True if it ended well."""
    print(f"\n== {name}: {BENCHES[name]}", flush=True)
    command = [sys.executable, "-m", f"bench.{name}"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    started = time.monotonic()
    lines = []
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode == 0:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.txt").write_text("".join(lines))
    print(f"== {name}: {'done' if process.returncode == 0 else 'FAILED'} in {time.monotonic() - started:.0f} s", flush=True)
    return process.returncode == 0


def main() -> None:
    """Runs the named benches, or all; exits 1 if one failed."""
    names = sys.argv[1:] or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        sys.exit(f"Unknown bench {', '.join(unknown)}. There are: {', '.join(BENCHES)}.")
    if not all([run(name) for name in names]):
        sys.exit(1)


if __name__ == "__main__":
    main()
