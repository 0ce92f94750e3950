"""5B with 8-bit products: the time of a step and how far its prediction is from bf16's.

torchao's quantised layers are fast only compiled (eager they are slower than bf16), so every way here is compiled block by block. The
error is the root mean square of the difference of predictions over that of the bf16 prediction, for one input at step 10.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch import nn

from bench.gpu.device import GIB, Device
from bench.gpu.models import Case, Stepping, build
from bench.gpu.report import Findings
from bench.gpu.variants import capture, ours, restore
from engine.errors import SprocketError
from engine.speed import why_not

ROUNDS = 3


def run(case: Case, device: Device, found: Findings, left: float) -> None:
    """Puts '5B 8-bit step' and '5B 8-bit error' of the fastest way within 3 %."""
    import time

    begun, weights = time.monotonic(), 2 * case.spec.component_parameters["transformer"]
    if device.real and device.room() < 2.4 * weights:
        found.say(f"  left out, {device.room() / GIB:.1f} GiB are free and {2.4 * weights / GIB:.1f} needed")
        return
    stepping = Stepping(case, device, build(case, "transformer", device))
    plain = capture(stepping.transformer)
    exact = stepping.velocity(stepping.tables).cpu()
    blocks, best = stepping.transformer.transformer_blocks, None
    for name, config, kernel in _ways(case, device, found):
        if time.monotonic() - begun > left * 0.8:
            found.say(f"  {name}: left out, no time")
            continue
        restore(stepping.transformer, plain)
        wide = [copy.copy(dict(layer._parameters)) for layer in _matrices(blocks)]
        try:
            if config is not None:
                _quantise(blocks, config())
            seconds, error = _measure(stepping, device, exact, kernel)
        except (RuntimeError, ImportError, ValueError, TypeError, AssertionError, NotImplementedError, SprocketError) as error_:
            found.say(f"  {name:44} failed: {type(error_).__name__}: {str(error_).splitlines()[0][:120] if str(error_) else ''}")
            continue
        finally:
            for layer, parameters in zip(_matrices(blocks), wide, strict=True):
                layer._parameters.update(parameters)
        found.say(f"  {name:44} {seconds:8.4f} s a step, prediction off by {error:.2%}")
        if error <= 0.03 and (best is None or seconds < best[0]):
            best = (seconds, error)
        device.free()
    if best is not None:
        found.put("5B 8-bit step", best[0])
        found.put("5B 8-bit error", best[1])


def _ways(case: Case, device: Device, found: Findings) -> Iterator[tuple[str, Callable[[], Any] | None, str]]:
    """(name, torchao config or None, attention kernel), the most promising first: time may not do for all."""
    from torchao import quantization as ao

    capability, head = device.hardware.capability or (0, 0), case.spec.width // case.spec.heads
    sage = why_not("sage", device.hardware, head=head, compute=device.compute)
    if capability >= (8, 9):
        fp8 = lambda: ao.Float8DynamicActivationFloat8WeightConfig(granularity=ao.PerRow())  # noqa: E731
        yield "FP8 weights and activations, by row", fp8, "auto"
        if not sage:
            yield "FP8 by row, attention by sage", fp8, "sage"
    else:
        found.say("  FP8 products: they need compute capability 8.9 or newer")
    yield "INT8 weights and activations", ao.Int8DynamicActivationInt8WeightConfig, "auto"
    if sage:
        found.say(f"  attention by sage: {sage}")
    else:
        yield "bf16 products, attention by sage", None, "sage"
    yield "INT8 weights", ao.Int8WeightOnlyConfig, "auto"


def _quantise(blocks: nn.ModuleList, config: Any) -> None:
    from torchao.quantization import quantize_

    for block in blocks:
        for part in (block.attn1, block.ff):
            quantize_(part, config)


def _matrices(blocks: nn.ModuleList) -> list[nn.Linear]:
    return [layer for block in blocks for part in (block.attn1, block.ff) for layer in part.modules() if isinstance(layer, nn.Linear)]


def _measure(stepping: Stepping, device: Device, exact: torch.Tensor, kernel: str) -> tuple[float, float]:
    variant = ours(stepping, device, compiled=True, kernel=kernel)
    variant.install()
    given = stepping.velocity(variant.rotary).cpu()
    if not torch.isfinite(given).all():
        raise RuntimeError("the prediction is not finite")
    if problem := variant.problem():
        raise RuntimeError(problem)
    times = [device.seconds(lambda: stepping.step(variant.rotary)) for _ in range(ROUNDS)]
    return median(times), float((given - exact).square().mean().sqrt() / exact.square().mean().sqrt())
