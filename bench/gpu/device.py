"""The few things that differ between a GPU and the processor of a self-test."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import psutil
import torch
from torch import Tensor

from engine.hardware import SPEED_PACKAGES, Hardware, detect

GIB = 2**30
PACKAGES = ("torch", "diffusers", "transformers", "torchao", "triton", "flash-attn", "flash-attn-3", "sageattention")


@dataclass(frozen=True)
class Device:
    """Where the bench runs."""

    torch: torch.device
    hardware: Hardware
    dtype: torch.dtype

    @property
    def real(self) -> bool:
        """A GPU, whose times mean something."""
        return self.torch.type == "cuda"

    @property
    def compute(self) -> str:
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    def sync(self) -> None:
        if self.real:
            torch.cuda.synchronize(self.torch)

    def seconds(self, work: Callable[[], Any]) -> float:
        """Of one call, until the device is done."""
        self.sync()
        begun = time.perf_counter()
        work()
        self.sync()
        return time.perf_counter() - begun

    def median(self, work: Callable[[], Any], *, repeats: int, batch: int = 1) -> float:
        """Seconds of one call: median of `repeats` batches, after one that does not count. On the processor of one call."""
        if not self.real:
            return self.seconds(work)

        def many() -> None:
            for _ in range(batch):
                work()
        many()
        return median(self.seconds(many) / batch for _ in range(repeats))

    def peak(self, work: Callable[[], Any]) -> int:
        """Highest bytes allocated on the device during the call; 0, and no call, on the processor, where nobody counts."""
        if not self.real:
            return 0
        self.free()
        torch.cuda.reset_peak_memory_stats(self.torch)
        work()
        self.sync()
        return torch.cuda.max_memory_allocated(self.torch)

    def free(self) -> None:
        """Give back what is not referenced any more."""
        gc.collect()
        if self.real:
            torch.cuda.empty_cache()

    def room(self) -> int:
        """Bytes that can be allocated now."""
        if not self.real:
            return self.hardware.free_bytes
        return torch.cuda.mem_get_info(self.torch)[0]

    def normal(self, *shape: int, seed: int = 0) -> Tensor:
        """Random numbers made on the device itself."""
        generator = torch.Generator(self.torch).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self.torch, dtype=self.dtype)


def open_device(*, self_test: bool) -> Device:
    """The GPU, or the processor where there is none or a self-test is asked for."""
    found = detect()  # says how GPUs are counted, and CUDA listens only before it begins
    if not self_test and torch.cuda.is_available():
        if not found.device.startswith("cuda"):  # no nvidia-smi: torch knows the same
            found = _gpu()
        torch.cuda.set_device(torch.device(found.device))
        return Device(torch.device(found.device), found, torch.bfloat16)
    return Device(torch.device("cpu"), _processor(), torch.float32)


def _gpu() -> Hardware:
    properties, (free, total) = torch.cuda.get_device_properties(0), torch.cuda.mem_get_info(0)
    packages = tuple(name for name in SPEED_PACKAGES if importlib.util.find_spec(name) is not None)
    return Hardware(device="cuda:0", name=properties.name, total_bytes=total, free_bytes=free, cores=os.cpu_count() or 1, bf16=True,
                    ram_bytes=psutil.virtual_memory().available, capability=(properties.major, properties.minor), packages=packages)


def _processor() -> Hardware:
    found = detect()
    return found if found.device == "cpu" else Hardware(device="cpu", name=platform.processor() or "processor", cores=found.cores,
                                                        total_bytes=found.ram_bytes or 0, free_bytes=found.ram_bytes or 0, bf16=False)


def versions() -> str:
    """Of everything that decides the numbers, on one line."""
    found = {"python": platform.python_version(), "cuda": torch.version.cuda or "none"}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    return ", ".join(f"{name} {version}" for name, version in found.items())
