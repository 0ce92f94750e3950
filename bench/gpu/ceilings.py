"""What this very machine can do at the exact shapes: matrix products, attention kernels, copies.

The composite ceiling of a step is the time of its products and of its attention, each by the fastest exact way found here, and of
nothing else: no norm, no rotation, no residual sum. An engine at 100 % of it would hide all of those.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bench.gpu.device import GIB, Device
from bench.gpu.models import Case
from bench.gpu.report import Findings
from engine.models.kernels import is_lossy, kernel, trial
from engine.speed import KERNELS, why_not

REPEATS = 5


def products(case: Case, device: Device, short: str, found: Findings) -> float:
    """Seconds of one step's matrix products, and the rate; each shape by itself."""
    d, rows, total, work = case.spec.width, 2 * case.tokens, 0.0, 0.0
    shapes = {"q, k and v": (d, 3 * d), "attention's output": (d, d), "feed-forward, first": (d, 4 * d), "feed-forward, second": (4 * d, d)}
    for name, (inner, outer) in shapes.items():
        tokens, weight, bias = device.normal(rows, inner), device.normal(outer, inner), device.normal(outer)
        seconds = device.median(lambda a=tokens, b=weight, c=bias: F.linear(a, b, c), repeats=REPEATS, batch=4)
        flops = 2.0 * rows * inner * outer
        total, work = total + seconds, work + flops
        found.say(f"  {short} {name:22} {rows} x {inner} x {outer}: {seconds * 1e3:8.3f} ms, {flops / seconds / 1e12:7.1f} TFLOP/s")
        del tokens, weight, bias
    found.say(f"  {short} products of a step: {total * case.spec.layers:.4f} s, {work / total / 1e12:.1f} TFLOP/s")
    return total * case.spec.layers


def attentions(case: Case, device: Device, short: str, found: Findings) -> float | None:
    """Seconds of one step's attention by the fastest exact kernel; every kernel this machine has is shown."""
    heads, width = case.spec.heads, case.spec.width // case.spec.heads
    flops, best = 4.0 * 2 * heads * case.tokens**2 * width, None
    for name in KERNELS:
        reason = why_not(name, device.hardware, head=width, compute=device.compute)
        if not reason and name == "sdpa-math" and device.real:
            reason = "it writes down all scores, far more than there is memory"
        if not reason:
            reason = _fails(name, heads, width, device)
        if reason:
            found.say(f"  {short} {name:15} not measured: {reason}")
            continue
        attend = kernel(name)
        query, key, value = (device.normal(2, case.tokens, heads, width, seed=seed).transpose(1, 2) for seed in range(3))
        seconds = device.median(lambda a=attend, q=query, k=key, v=value: a(q, k, v), repeats=REPEATS)
        remark = ", lossy" if is_lossy(name) else ""
        found.say(f"  {short} {name:15} {seconds * 1e3:8.3f} ms, {flops / seconds / 1e12:7.1f} TFLOP/s{remark}")
        if not is_lossy(name) and (best is None or seconds < best):
            best = seconds
        del query, key, value
        device.free()
    return None if best is None else best * case.spec.layers


def _fails(name: str, heads: int, width: int, device: Device) -> str:
    try:
        return trial(kernel(name), lossy=is_lossy(name), heads=heads, width=width, dtype=device.dtype, device=device.torch)
    except (ImportError, OSError, AttributeError) as error:
        return f"it cannot be imported ({type(error).__name__})"


def copies(case: Case, device: Device, found: Findings) -> None:
    """Bytes a second into the device out of pinned memory, and within it; a block's weights at a time."""
    layout = case.spec.layout.get("transformer")
    size = 2 * layout.block if layout and device.real else 2**20
    here = torch.empty(size, dtype=torch.uint8, device=device.torch)
    host = torch.empty(size, dtype=torch.uint8, pin_memory=device.real)
    there = torch.empty_like(here)
    for name, work, passes in (("pinned memory to device", lambda: here.copy_(host, non_blocking=True), 1),
                               ("within the device", lambda: there.copy_(here), 2)):
        seconds = device.median(work, repeats=REPEATS, batch=4)
        found.say(f"  {name:24} {size / 2**20:.0f} MiB: {size / seconds / 1e9:8.1f} GB/s"
                  f"{f' ({passes * size / seconds / 1e9:.0f} read and written)' if passes > 1 else ''}")
        found.put(f"copy {name}", size / seconds)
    if layout and device.real:
        weights = 2 * layout.blocks * layout.block
        arrive = weights / found.numbers["copy pinned memory to device"]
        found.say(f"  all blocks of {case.name} ({weights / GIB:.1f} GiB) arrive in {arrive:.3f} s")


def ceiling(case: Case, device: Device, short: str, found: Findings) -> None:
    """Puts '<short> ceiling', in seconds a step."""
    linear = products(case, device, short, found)
    device.free()
    attention = attentions(case, device, short, found)
    if attention is not None:
        found.put(f"{short} ceiling", linear + attention)
        found.say(f"  {short} composite ceiling: {linear:.4f} + {attention:.4f} = {linear + attention:.4f} s a step")
