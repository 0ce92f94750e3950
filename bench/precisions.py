"""The transformer's precisions, and decoding in tiles, on the pocket model: how far the clip moves from the exact one.

    python -m bench.precisions [--clips 3] [--steps 25] [--only PRECISION] [--store]

Every clip is made exactly (the machine's own arithmetic, decoded whole), then once with each precision: same prompt, seed and noise.
PSNR is that of the decoded frames to the exact clip's. Bytes are those of the transformer's weights as kept, by the planner's own
formula. `--store` writes what the app reads: `engine/facts/precisions.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.caches import PROMPTS, Option, decoded, psnr, sampled
from engine.choices import tile_size
from engine.hardware import detect
from engine.memory.weights import layout, stored_bytes
from engine.models.cache import ModelCache
from engine.models.catalogue import find
from engine.plan import Plan, plan
from engine.precision import FILE
from engine.request import PRECISIONS, GenerationRequest
from engine.spec import read_spec

TILES = "tiles"


def made(models: ModelCache, job: Plan) -> np.ndarray:
    """The frames of a clip, float64 of 0 to 255."""
    model = models.get(job)
    return decoded(model, job, sampled(model, job, Option("off", 1.0), None)[0])


def main() -> int:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--clips", type=int, default=3)
    ask.add_argument("--steps", type=int, default=25)
    ask.add_argument("--only", action="append", choices=(*PRECISIONS[1:], TILES), help="may be given several times")
    ask.add_argument("--store", action="store_true")
    wish = ask.parse_args()
    spec, hardware, begun = read_spec(find("pocket"), "pocket"), detect(), time.monotonic()
    requests = [GenerationRequest(prompt=PROMPTS[i % len(PROMPTS)], seed=i, steps=wish.steps) for i in range(wish.clips)]
    jobs, models = [plan(request, spec, hardware) for request in requests], ModelCache()
    exact = [made(models, job) for job in jobs]
    own, found = jobs[0].dtype, layout(spec, "transformer")
    wide = stored_bytes(found, jobs[0].placement.transformer, own)
    about = {"model": spec.name, "fingerprint": spec.fingerprint, "steps": wish.steps, "guidance": jobs[0].guidance,
             "frames": jobs[0].frames, "height": jobs[0].height, "width": jobs[0].width, "dtype": own, "clips": wish.clips}
    print(f"pocket: {about}\n{'':14}{'weights':>9}{'PSNR':>7}{'worst':>7}")
    rows: list[dict[str, Any]] = []
    for name in wish.only or [one for one in (*PRECISIONS[1:], TILES) if one not in ("bf16", "fp32")]:
        each = []
        for request, job, frames in zip(requests, jobs, exact, strict=True):
            other = replace(job, tile=tile_size(spec)) if name == TILES else plan(replace(request, precision=name), spec, hardware)
            each.append(psnr(made(models, other), frames))
        size = wide if name == TILES else stored_bytes(found, other.placement.transformer, own)
        rows.append({"name": name, "bytes_share": round(size / wide, 3), "psnr": round(mean(each), 2), "psnr_least": round(min(each), 2)})
        print(f"{name:14}{size / wide:8.2f}x{mean(each):7.1f}{min(each):7.1f}", flush=True)
    if wish.store:
        lines = ",\n  ".join(json.dumps(row) for row in rows)
        FILE.write_text(f'{{"about": {json.dumps(about)},\n "rows": [\n  {lines}\n ]}}\n')
    print(f"{time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
