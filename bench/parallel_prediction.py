"""What the cost model predicts for 1 to 12 GPUs, beside what xDiT published for the same steps. A prediction, not a measurement of ours.

    python -m bench.parallel_prediction

Published: seconds of a denoising step, 49 frames of 480 x 720, both halves of guidance, docs/performance/cogvideo.md of
https://github.com/xdit-project/xDiT. Of each row the model is told the one-GPU time and the card's bus or NVLink, nothing else.
`torchrun ... -m app.cli_torchrun` prints the measured steps of a machine with several GPUs.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.facts import published
from engine.memory.shapes import Shape
from engine.parallel.cost import PCIE, Machine, choices, step_cost
from engine.parallel.degrees import Degrees

CLIP = Shape(49, 480, 720, True)
U2, R2, C2, U3, R3 = Degrees(1, 2, 1), Degrees(1, 1, 2), Degrees(2), Degrees(1, 3, 1), Degrees(1, 1, 3)
NVLINK = 2e11
ROWS = [
    ("5B on L40", "THUDM/CogVideoX-5b", PCIE, 6.28,
     {U2: 3.63, R2: 3.65, C2: 3.05, U3: 2.70, R3: 2.61, Degrees(2, 2, 1): 1.80, Degrees(2, 1, 2): 1.73, Degrees(1, 3, 2): 1.45,
      Degrees(1, 2, 3): 1.58, Degrees(2, 3, 1): 1.35, Degrees(2, 1, 3): 1.31, Degrees(2, 3, 2): 0.82, Degrees(2, 2, 3): 0.81}),
    ("2B on L40", "THUDM/CogVideoX-2b", PCIE, 2.10,
     {U2: 1.24, R2: 1.23, C2: 1.02, U3: 0.95, R3: 0.89, Degrees(2, 2, 1): 0.63, Degrees(2, 1, 2): 0.60, Degrees(2, 3, 1): 0.50,
      Degrees(2, 1, 3): 0.49, Degrees(2, 3, 2): 0.69, Degrees(2, 2, 3): 0.54}),
    ("5B on A100", "THUDM/CogVideoX-5b", NVLINK, 4.07, {U2: 2.38, R2: 2.44, C2: 2.12, Degrees(2, 2, 1): 1.27, Degrees(2, 1, 2): 1.27}),
]


def main() -> int:
    for name, model, link, alone, measured in ROWS:
        spec = published(model)
        work = step_cost(spec, CLIP, Degrees(), Machine(1.0, math.inf)).compute
        machine = Machine(work / alone, link)
        print(f"{name}, {alone:.2f} s a step alone ({work / alone / 1e12:.0f} TFLOP/s), {link / 1e9:.0f} GB/s between two GPUs assumed")
        off = []
        for degrees, seconds in measured.items():
            guess = step_cost(spec, CLIP, degrees, machine)
            off.append(guess.seconds / seconds)
            print(f"  {degrees.ranks:3} GPUs  {degrees!s:26} predicted {guess.seconds:5.2f} s ({alone / guess.seconds:4.2f} x), xDiT "
                  f"{seconds:5.2f} s ({alone / seconds:4.2f} x), {guess.sent_bytes / 1e9:5.2f} GB sent by each")
        print(f"  predicted / published: {min(off):.2f} to {max(off):.2f}, median {median(off):.2f}")
    print("5B, the fastest way for each number of GPUs, predicted for H100s with NVLink (330 TFLOP/s, 150 GB/s)")
    for ranks in range(1, 9):
        found = choices(published("THUDM/CogVideoX-5b"), CLIP, ranks, Machine(3.3e14, 1.5e11))
        best = found[0]
        print(f"  {ranks:3} GPUs  {best.degrees!s:26} {best.cost.seconds:5.2f} s a step, {best.speed_up:4.2f} x")
    return 0


if __name__ == "__main__":
    sys.exit(main())
