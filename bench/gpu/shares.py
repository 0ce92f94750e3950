"""The one-GPU side of the cost model (`engine.parallel.cost`): what a rank's part of a step takes here, alone, without any exchange.

The model says a rank with 1/N of the work takes 1/N of the time. Smaller products and fewer heads run at lower rates, and ulysses
packs what it sends; both can be measured on one GPU, at the exact shapes of a rank. What cannot is the link, so it is named.

    part of a step = layers x (products of the rank's tokens + attention of its heads over all tokens)
    packing        = layers x (q, k, v and the output, each read and written once on the way out and once on the way in)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.gpu.ceilings import REPEATS
from bench.gpu.device import Device
from bench.gpu.models import Case
from bench.gpu.report import Findings
from engine.parallel.cost import PCIE, Machine, step_cost
from engine.parallel.degrees import ALONE, Degrees, share_of, why_not

WAYS = (Degrees(2), Degrees(1, 2, 1), Degrees(2, 2, 1), Degrees(1, 4, 1), Degrees(2, 4, 1), Degrees(1, 8, 1))
NVLINK = 1.5e11
"""Bytes a second, as `engine.parallel.cost.GPU` has it."""


@dataclass(frozen=True)
class Part:
    """What one rank does of a step."""

    rows: int
    tokens: int
    heads: int


def part_of(case: Case, degrees: Degrees) -> Part:
    """Of the rank with most to do."""
    text = case.spec.max_text_tokens
    share = share_of(degrees, text, case.tokens - text, case.spec.heads)
    return Part(2 // degrees.cfg, max(share.tokens), max(share.heads))


def run(case: Case, device: Device, short: str, found: Findings) -> None:
    """The table for every legal way; puts '<short> rate', in FLOP a second, and '<short> share <degrees>', a share of the step alone."""
    alone = seconds_of(case, device, part_of(case, ALONE))
    work = step_cost(case.spec, case.shape, ALONE, Machine(1.0, 1.0)).compute
    found.put(f"{short} rate", work / alone)
    step = found.numbers.get(f"{short} step", alone)
    machines = [Machine(work / step, link) for link in (NVLINK, PCIE)]
    found.say(f"  {short} alone: {alone:.4f} s of products and attention a step, {work / alone / 1e12:.1f} TFLOP/s; "
              f"{'the step measured above' if f'{short} step' in found.numbers else 'this'}, {step:.4f} s, is what is divided below")
    links = f"with NVLink {NVLINK / 1e9:.0f} GB/s   with PCIe {PCIE / 1e9:.0f} GB/s"
    found.say(f"  {short} {'ways':26} part here   1/N   packing   {links} (predicted)")
    for degrees in WAYS:
        if why_not(degrees, guided=True, heads=case.spec.heads, video=case.tokens - case.spec.max_text_tokens):
            continue
        share = seconds_of(case, device, part_of(case, degrees)) / alone
        pack = packing(case, device, degrees)
        found.put(f"{short} share {degrees}", share)
        totals = [step * share + pack + step_cost(case.spec, case.shape, degrees, machine).exchange for machine in machines]
        found.say(f"  {short} {degrees!s:26} {share:9.3f} {1 / degrees.ranks:5.3f} {pack:7.4f} s"
                  + "".join(f"   {total:7.4f} s ({step / total:4.2f} x)" for total in totals))
        device.free()


def seconds_of(case: Case, device: Device, part: Part) -> float:
    """Of a step: the products and the attention of `part`, by torch's own fastest kernel."""
    d, rows, total = case.spec.width, part.rows * part.tokens, 0.0
    for inner, outer in ((d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)):
        tokens, weight, bias = device.normal(rows, inner), device.normal(outer, inner), device.normal(outer)
        total += device.median(lambda a=tokens, b=weight, c=bias: F.linear(a, b, c), repeats=REPEATS, batch=4)
        del tokens, weight, bias
    width = d // case.spec.heads
    query, key, value = (device.normal(part.rows, case.tokens, part.heads, width, seed=seed).transpose(1, 2) for seed in range(3))
    total += device.median(lambda: F.scaled_dot_product_attention(query, key, value), repeats=REPEATS)
    return total * case.spec.layers


def packing(case: Case, device: Device, degrees: Degrees) -> float:
    """Seconds of a step in which ulysses lays out what it sends and what it got; 0 where it sends nothing."""
    if degrees.ulysses == 1:
        return 0.0
    part = part_of(case, degrees)
    held = device.normal(part.rows, case.spec.heads, part.tokens, case.spec.width // case.spec.heads)

    def once() -> torch.Tensor:
        return torch.cat([one.reshape(-1) for one in held.split(part.heads, dim=1)])
    return 2 * 4 * case.spec.layers * device.median(once, repeats=REPEATS, batch=4)
