"""Ways to compute one and the same transformer, switched in turn so that their steps can be measured interleaved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.gpu.device import Device
from bench.gpu.models import Stepping
from engine.models import accelerate
from engine.models.compiling import CompiledBlocks
from engine.speed import choose_kernel


@dataclass
class State:
    """What a variant leaves in the modules: each block's forward, processor and its passes."""

    forwards: list[Any]
    processors: list[Any]
    ops: list[Any]
    packed: list[bool]


def capture(transformer: Any) -> State:
    blocks = list(transformer.transformer_blocks)
    processors = [block.attn1.processor for block in blocks]
    return State([vars(block).get("forward") for block in blocks], processors, [getattr(p, "ops", None) for p in processors],
                 [getattr(block.attn1, "qkv_packed", False) for block in blocks])


def restore(transformer: Any, state: State) -> None:
    for block, forward, processor, ops, packed in zip(transformer.transformer_blocks, state.forwards, state.processors, state.ops,
                                                      state.packed, strict=True):
        block.__dict__.pop("forward", None)
        if forward is not None:
            block.forward = forward
        block.attn1.set_processor(processor)
        if hasattr(processor, "ops"):
            processor.ops = ops
        block.attn1.qkv_packed = packed


@dataclass
class Variant:
    """One way. `install` is called once, on stock modules; `rotary` is what it wants for tables."""

    name: str
    install: Callable[[], str]
    """Returns a remark, e.g. which kernel."""
    rotary: Any
    state: State | None = None
    problem: Callable[[], str] = lambda: ""


def stock(stepping: Stepping) -> Variant:
    """diffusers' modules, eager."""
    return Variant("stock eager", lambda: "", stepping.tables)


def stock_compiled(stepping: Stepping, device: Device) -> Variant:
    """diffusers' modules, each block compiled (inductor, default mode); in a self-test by a compiler that changes nothing."""
    held: list[CompiledBlocks] = []

    def install() -> str:
        held.append(CompiledBlocks(stepping.transformer, backend="inductor" if device.real else "eager"))
        return "block by block"
    return Variant("stock compiled", install, stepping.tables, problem=lambda: held[0].problem if held else "")


def ours(stepping: Stepping, device: Device, *, compiled: bool = False, kernel: str = "auto") -> Variant:
    """As the engine prepares a resident transformer here."""
    spec, variant = stepping.case.spec, Variant("ours", lambda: "", stepping.tables)

    def install() -> str:
        name = choose_kernel(kernel, device.hardware, head=spec.width // spec.heads, compute=device.compute)
        wants = accelerate.prepare(stepping.transformer, accelerate.Ways(name, kernel != "auto", compiled and device.real),
                                   stepping.picture, device=device.torch, dtype=device.dtype, staged=False)
        variant.rotary = stepping.complex if wants else stepping.tables
        block = stepping.transformer.transformer_blocks[0]
        processor = block.attn1.processor
        ops = getattr(processor, "ops", None)
        qkv = "in one" if getattr(block.attn1, "qkv_packed", False) else "apart"
        passes = "compiled" if compiled and device.real else ops.name if ops else "of diffusers"
        return f"kernel {getattr(processor, 'name', 'of diffusers')}, q k v {qkv}, passes {passes}"
    if compiled and device.real:  # blocks that could not be compiled are diffusers' own again
        first = stepping.transformer.transformer_blocks[0]
        variant.problem = lambda: "" if "forward" in vars(first) else "the compiler failed, the log says how"
    variant.install = install
    variant.name = "ours compiled" if compiled else "ours" if kernel == "auto" else f"ours, {kernel}"
    return variant
