"""Which attention kernel a machine runs, whether compiling pays, and why not. Pure: no torch, nothing is imported.

    wish ('auto' or a name) + Hardware --choose_kernel--> name        or InvalidRequest with the reason

Kernels:
    native           torch's scaled_dot_product_attention, which picks one by itself; on the processor bit-equal to diffusers
    sdpa-math, sdpa-flash, sdpa-efficient, sdpa-cudnn      the same call held to one of torch's kernels
    flash, flash3    the flash-attn packages, https://arxiv.org/abs/2307.08691 and https://arxiv.org/abs/2407.08608
    flex             torch's flex_attention
    sage             SageAttention, https://arxiv.org/abs/2411.10958: 8-bit products, lossy
All but `sage` multiply in the model's precision and differ from each other in roundings only.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import InvalidRequest
from engine.hardware import Hardware

KERNELS = ("native", "sdpa-math", "sdpa-flash", "sdpa-efficient", "sdpa-cudnn", "flash", "flash3", "flex", "sage")
LOSSY = ("sage",)
PACKAGES = {"flash": "flash_attn", "flash3": "flash_attn_interface", "sage": "sageattention", "flex": "triton"}
"""What a kernel on a GPU is imported from, beside torch."""
HALF = ("bf16", "fp16")
SAGE_HEADS = (64, 96, 128)

COMPILE_SHARE = 0.2
"""Of the sampling time that compiling saves: 112.4 s to 87.5 s for a 5B model on an H100, by diffusers-torchao's table."""
COMPILE_SECONDS = 15.0
"""Warm-up counted for it: a guess until `bench.gpu` has printed it on a GPU."""
NOMINAL_FLOPS = 300e12
"""A large GPU, uncompiled. On a slower one compiling pays all the more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What an installation asks for. Raises `InvalidRequest` for a kernel it does not know."""

    attention: str = "auto"
    """One of `KERNELS`, or 'auto': the fastest exact one."""
    compile: bool = False
    """Compile the transformer's blocks for jobs where that pays."""

    def __post_init__(self) -> None:
        if self.attention not in ("auto", *KERNELS):
            raise InvalidRequest("attention", f"is {str(self.attention)[:40]!r}; the kernels are auto, {', '.join(KERNELS)}.",
                                 suggestion="auto")


def why_not(kernel: str, hardware: Hardware, *, head: int, compute: str) -> str:
    """Why this machine cannot run `kernel`, as a clause; '' where it can.

    `head`: width of one head. `compute`: precision of the arithmetic ('bf16', 'fp16', 'fp32').
    """
    on_gpu = hardware.device.startswith("cuda")
    if kernel in ("native", "sdpa-math"):
        return ""
    if not on_gpu:
        return "" if kernel in ("sdpa-flash", "flex") else "it runs on NVIDIA GPUs only, and this job runs on the processor"
    if (package := PACKAGES.get(kernel)) and package not in hardware.packages:
        return f"the package {package} is not installed"
    if kernel == "flex":
        return ""
    capability = hardware.capability
    if capability is None:
        return "the GPU's compute capability is not known"
    if kernel == "sdpa-efficient":
        return ""
    low, high = {"flash3": ((9, 0), (9, 9))}.get(kernel, ((8, 0), (99, 9)))
    if not low <= capability <= high:
        need = f"{low[0]}.x" if kernel == "flash3" else f"{low[0]}.{low[1]} or newer"
        return f"it needs compute capability {need}, and {hardware.name} has {capability[0]}.{capability[1]}"
    if compute not in HALF:
        return f"it multiplies 16-bit numbers, and this model runs in {compute}"
    if kernel == "sage" and head not in SAGE_HEADS:
        return f"it takes heads of {', '.join(map(str, SAGE_HEADS))} channels, and this model's have {head}"
    if head % 8 or head > (128 if kernel == "sdpa-cudnn" else 256):
        return f"it does not take heads of {head} channels"
    return ""


def choose_kernel(wish: str, hardware: Hardware, *, head: int, compute: str) -> str:
    """The kernel for `wish`; 'auto' never gives a lossy one. Raises `InvalidRequest` (attention) for one that is not here."""
    if wish != "auto":
        if reason := why_not(wish, hardware, head=head, compute=compute):
            here = [name for name in KERNELS if not why_not(name, hardware, head=head, compute=compute)]
            raise InvalidRequest("attention", f"is {wish!r}, which cannot be used: {reason}. On this machine there are "
                                              f"{', '.join(here)}; SPROCKET_ATTENTION says which is taken.", suggestion="auto")
        return wish
    # Hopper's and newer tensor cores are fed by these two only; on older GPUs torch's own choice is FlashAttention-2.
    newer = hardware.capability is not None and hardware.capability >= (9, 0)
    for kernel in ("flash3", "sdpa-cudnn") if newer else ():
        if not why_not(kernel, hardware, head=head, compute=compute):
            return kernel
    return "native"


def compiling_pays(speed: Speed, hardware: Hardware, *, work: float, residency: str, feed_forward: str) -> bool:
    """True where compiled blocks are asked for, can be had and save more time than they take to make.

    `work`: of all steps, in floating-point operations (`stage_work`). Blocks whose weights come and go, and blocks that
    work in place, are not compiled.
    """
    if not speed.compile or not hardware.device.startswith("cuda") or "triton" not in hardware.packages:
        return False
    if residency != "resident" or feed_forward != "whole":
        return False
    return work / NOMINAL_FLOPS * COMPILE_SHARE > COMPILE_SECONDS
