"""True denoising steps of 2B and 5B: stock eager, stock compiled, ours; interleaved, extrapolated to 50."""

from __future__ import annotations

from statistics import median

from torch import Tensor

from bench.gpu.device import GIB, Device
from bench.gpu.models import Case, Stepping, build
from bench.gpu.report import STEPS, Findings
from bench.gpu.variants import Variant, capture, ours, restore, stock, stock_compiled

ROUNDS = 4
NEEDED = 1.45
"""Memory of the part, in weights: themselves, and the activations of an uncompiled stock step."""


def run(case: Case, device: Device, short: str, found: Findings, left: float) -> None:
    """Puts '<short> step' and '<short> warm-up' (preparing included) of ours, in seconds. `left`: seconds this part may take."""
    weights = 2 * case.spec.component_parameters["transformer"]
    if device.real and device.room() < NEEDED * weights:
        found.say(f"  {short}: left out, {device.room() / GIB:.1f} GiB are free and {NEEDED * weights / GIB:.1f} needed")
        return
    begun = _now()
    stepping = Stepping(case, device, build(case, "transformer", device))
    variants = [stock(stepping), ours(stepping, device), stock_compiled(stepping, device)]
    if device.real:
        variants.append(ours(stepping, device, compiled=True))
    plain, results, first = capture(stepping.transformer), {}, {}
    ready: list[Variant] = []
    for variant in variants:
        if _now() - begun > left / 2 and ready:
            found.say(f"  {short} {variant.name}: left out, no time")
            continue
        restore(stepping.transformer, plain)
        remark: list[str] = []
        seconds = device.seconds(lambda v=variant, r=remark: r.append(v.install()))
        made: list[Tensor] = []
        peak = 0

        def once(v: Variant = variant, into: list[Tensor] = made) -> None:
            into.append(stepping.velocity(v.rotary))
        first[variant.name] = seconds + device.seconds(once)
        peak = device.peak(lambda v=variant: stepping.velocity(v.rotary))
        variant.state = capture(stepping.transformer)
        results[variant.name] = made[0]
        error = (made[0] - results["stock eager"]).square().mean().sqrt() / results["stock eager"].square().mean().sqrt()
        if variant.problem():
            remark.append(f"NOT COMPILED: {variant.problem()}")
        found.say(f"  {short} {variant.name:15} prepared and first call {first[variant.name]:7.2f} s, peak {peak / GIB:6.2f} GiB, off "
                  f"stock by {error:.2e}{f' ({chr(59).join(filter(None, remark))})' if any(remark) else ''}")
        ready.append(variant)
    times: dict[str, list[float]] = {variant.name: [] for variant in ready}
    for _ in range(ROUNDS):
        if _now() - begun > left and all(times.values()):
            break
        for variant in ready:
            assert variant.state is not None
            restore(stepping.transformer, variant.state)
            times[variant.name].append(device.seconds(lambda v=variant: stepping.step(v.rotary)))
    _report(short, times, first, found)


def _report(short: str, times: dict[str, list[float]], first: dict[str, float], found: Findings) -> None:
    base = median(times["stock eager"])
    for name, seconds in times.items():
        each = median(seconds)
        ratio = median(a / b for a, b in zip(seconds, times["stock eager"], strict=True))
        found.say(f"  {short} {name:15} {each:8.4f} s a step (median of {len(seconds)}), {STEPS} steps {STEPS * each:7.1f} s, "
                  f"{ratio:.3f} of stock eager")
        found.put(f"{short} {name}", each)
    best = min((name for name in times if name.startswith("ours")), key=lambda name: median(times[name]))
    found.put(f"{short} step", median(times[best]))
    found.put(f"{short} warm-up", max(0.0, first[best] - median(times[best])))
    found.say(f"  {short}: of ours, '{best}' counts; stock eager takes {base / found.numbers[f'{short} step']:.2f} times as long")


def _now() -> float:
    import time

    return time.monotonic()
