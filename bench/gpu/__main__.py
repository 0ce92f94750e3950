"""`make bench-gpu`: 2B and 5B at true size on one NVIDIA GPU, in under ten minutes; a self-test of itself where there is none.

    python -m bench.gpu [--self-test] [--only PART ...] [--seconds 570] [--results DIR]

Weights are random-normal and made on the device: times and memory do not depend on what a model has learnt. Every part runs in
its own time box, and one that fails leaves the others' numbers. The table of targets (an H200's) comes last; with a GPU all that
was printed is kept in bench/results/gpu-DATE-NAME.txt. A self-test runs every part with toys on the processor; its times mean
nothing and are not kept.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.gpu import ceilings, eight_bit, ends, shares, steps, whole
from bench.gpu.device import GIB, Device, open_device, versions
from bench.gpu.models import case
from bench.gpu.report import Findings, add_totals, verdicts

RESULTS = Path(__file__).resolve().parents[1] / "results"
Part = Callable[[float], None]


def parts(device: Device, found: Findings) -> dict[str, tuple[str, float, Part]]:
    """By name: in words, share of the time, and the work, which is told how many seconds it may take."""
    small, large = case("CogVideoX-2b", toy=not device.real), case("CogVideoX-5b", toy=not device.real)

    def limits(_left: float) -> None:
        ceilings.copies(large, device, found)
        for one, short in ((small, "2B"), (large, "5B")):
            ceilings.ceiling(one, device, short, found)

    def around(_left: float) -> None:
        ends.text(large, device, found)
        device.free()
        ends.decode(large, device, found)

    def divided(_left: float) -> None:
        for one, short in ((large, "5B"), (small, "2B")):
            shares.run(one, device, short, found)

    return {
        "ceilings": ("what this machine can do at these shapes", 0.10, limits),
        "ends": ("text and decode", 0.12, around),
        "5b": ("5B, a step of each way in turn", 0.24, lambda left: steps.run(large, device, "5B", found, left)),
        "2b": ("2B, a step of each way in turn", 0.14, lambda left: steps.run(small, device, "2B", found, left)),
        "parallel": ("what a rank's part of a step takes, and what several GPUs are predicted to", 0.06, divided),
        "8-bit": ("5B in 8 bits", 0.16, lambda left: eight_bit.run(large, device, found, left)),
        "whole": ("the whole 5B pipeline, resident and in the least memory", 0.18, lambda _left: whole.run(large, device, found)),
    }


def main() -> int:
    """0 unless a part of a self-test failed."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--self-test", action="store_true", help="toys on the processor, also where there is a GPU")
    ask.add_argument("--only", nargs="+", default=None, metavar="PART", help="of ceilings, ends, 5b, 2b, parallel, 8-bit, whole")
    ask.add_argument("--seconds", type=float, default=570.0, help="for everything")
    ask.add_argument("--results", type=Path, default=RESULTS)
    wish = ask.parse_args()

    device, found, begun = open_device(self_test=wish.self_test), Findings(), time.monotonic()
    every = parts(device, found)
    if unknown := sorted(set(wish.only or ()) - set(every)):
        ask.error(f"unknown part {', '.join(unknown)}; there are {', '.join(every)}")
    now = datetime.now(timezone.utc)
    found.say(f"bench.gpu, {now:%Y-%m-%d %H:%M} UTC, {device.hardware.name}, {device.hardware.total_bytes / GIB:.0f} GiB, {device.compute}")
    found.say(versions())
    if not device.real:
        found.say("SELF-TEST with toys on the processor: it shows that every part runs. Its times mean nothing.")
    failed = [name for name, (words, share, work) in every.items()
              if not (wish.only and name not in wish.only) and not one(name, words, share, work, device, found, begun, wish.seconds)]
    add_totals(found.numbers)
    found.say(f"\n{time.monotonic() - begun:.0f} s in all{f'; FAILED: {chr(44).join(failed)}' if failed else ''}\n")
    if device.real:
        for line in verdicts(found.numbers):
            found.say(line)
        wish.results.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", device.hardware.name.lower()).strip("-")
        (wish.results / f"gpu-{now:%Y%m%d}-{name}.txt").write_text("\n".join(found.lines) + "\n")
        return 0
    found.say(f"self-test {'FAILED' if failed else 'passed'}; {sum(1 for _ in verdicts(found.numbers))} targets need a GPU")
    return 1 if failed else 0


def one(name: str, words: str, share: float, work: Part, device: Device, found: Findings, begun: float, seconds: float) -> bool:
    """Runs one part; False if it failed. A part for which no time is left is left out."""
    left, own = seconds - (time.monotonic() - begun), share * seconds
    found.say(f"\n== {name}: {words}")
    if left < own / 3:
        found.say(f"  left out: {max(0.0, left):.0f} s are left")
        return True
    try:
        work(min(own, left))
    except Exception as error:  # noqa: BLE001  (one part's failure must not cost the other parts' numbers)
        found.say(f"  FAILED: {type(error).__name__}: {error}")
        found.say("  " + "  ".join(traceback.format_exc().splitlines(keepends=True)[-6:]))
        return False
    finally:
        if device.real:
            torch._dynamo.reset()
        device.free()
    return True


if __name__ == "__main__":
    sys.exit(main())
