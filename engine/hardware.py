"""What this machine has, asked without torch: memory, cores, bf16, and an NVIDIA GPU if torch can use it."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

MIB = 2**20
QUERY = "index,name,memory.total,memory.free,compute_cap,utilization.gpu"
BF16_FLAGS = ("avx512_bf16", "amx_bf16")
AS_GOOD = 2 * 2**30
"""GPUs whose free memory differs by less are as good as each other: a context and its libraries take about that."""
SPEED_PACKAGES = ("triton", "flash_attn", "flash_attn_interface", "sageattention")
"""Kernels for NVIDIA GPUs that may be installed beside torch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One of several GPUs of this computer."""

    device: str
    """'cuda:N'."""
    name: str
    total_bytes: int
    free_bytes: int
    load: int | None = None
    """Per cent of the last second it was at work; None: not known."""
    held_bytes: int = 0
    """Of `free_bytes`, what the asking process and its ranks hold, and would let go."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """The one device work runs on, and what is beside it."""

    device: str
    """'cpu' or 'cuda:N'."""
    name: str
    """For people, e.g. 'AMD EPYC 9575F' or 'NVIDIA H200'."""
    total_bytes: int
    """Memory of the device."""
    free_bytes: int
    """Of it, free now."""
    cores: int
    """Processor cores this process may use."""
    bf16: bool
    """True where bfloat16 arithmetic is native, and so faster than float32."""
    ram_bytes: int | None = None
    """Of a GPU's computer: its own memory free now. None: not known, or the device is the processor."""
    capability: tuple[int, int] | None = None
    """CUDA compute capability, e.g. (9, 0). None: not known, or the device is the processor."""
    packages: tuple[str, ...] = ()
    """Of `SPEED_PACKAGES`, those that can be imported here. Only looked for beside a GPU."""
    gpus: tuple[Gpu, ...] = ()
    """All GPUs of this computer, this one among them; none where the device is the processor."""
    link: tuple[float, float] | None = None
    """Bytes a second between devices, and seconds of an exchange, as ranks measured them here; None: not yet."""
    link_at: float | None = None
    """When they did, in seconds since 1970."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Hardware:
        """The inverse of `dataclasses.asdict`, also after JSON made lists of tuples."""
        gpus = tuple(Gpu(**one) for one in values.get("gpus", ()))
        capability, link = values.get("capability"), values.get("link")
        measured = None if link is None else (link[0], link[1])
        return cls(**{**values, "gpus": gpus, "packages": tuple(values.get("packages", ())), "link": measured,
                      "capability": None if capability is None else (capability[0], capability[1])})


def detect(kind: str | None = None, held: Mapping[str, int] | None = None) -> Hardware:
    """The GPU with most free memory if torch was built for it, else the processor. Takes milliseconds, never raises.

    `kind` 'cpu': the processor, whatever else there is. `held`: bytes by device ('cuda:N') that the asking process holds: they count
    as free, and among GPUs as good as each other the one with most of them is taken, so that a model stays where it is.
    """
    held = held or {}
    gpus = _gpus(held) if kind != "cpu" and _torch_has_cuda() else []
    if not gpus:
        return _cpu()
    most = max(gpu.free_bytes for gpu in gpus)
    return max((gpu for gpu in gpus if gpu.free_bytes >= most - AS_GOOD), key=lambda gpu: (held.get(gpu.device, 0), gpu.free_bytes))


def _cpu() -> Hardware:
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit, used = _cgroup_memory()
    if limit is not None:  # a container may have less than the machine
        total, free = min(total, limit), min(free, max(limit - used, 0))
    info = _read(Path("/proc/cpuinfo"))
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", info, re.MULTILINE)
    words = set(flags.group(1).split()) if flags else set()
    return Hardware(device="cpu", name=model.group(1).strip() if model else platform.processor() or "processor",
                    total_bytes=total, free_bytes=free, cores=_cores(), bf16=any(f in words for f in BF16_FLAGS))


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS or Windows
        return os.cpu_count() or 1


def _cgroup_memory() -> tuple[int | None, int]:
    """(limit, used) in bytes of this control group; limit None where there is none. File cache counts as free."""
    limit = _read(Path("/sys/fs/cgroup/memory.max")).strip()
    if not limit.isdigit():
        return None, 0
    used = _read(Path("/sys/fs/cgroup/memory.current")).strip()
    cache = re.search(r"^inactive_file (\d+)$", _read(Path("/sys/fs/cgroup/memory.stat")), re.MULTILINE)
    return int(limit), max(0, int(used or 0) - (int(cache.group(1)) if cache else 0))


def _torch_has_cuda() -> bool:
    """Read off torch's version file: importing torch to ask would cost seconds and a GPU context."""
    found = importlib.util.find_spec("torch")
    if found is None or not found.origin:
        return False
    line = re.search(r"^cuda\b.*=\s*(.+)$", _read(Path(found.origin).parent / "version.py"), re.MULTILINE)
    return line is not None and line.group(1).strip() != "None"


def _gpus(held: Mapping[str, int] | None = None) -> list[Hardware]:
    # nvidia-smi numbers GPUs by their place on the bus, CUDA by their speed unless told so, before it begins.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    try:
        asked = subprocess.run(["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"],
                               capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in asked.stdout.splitlines() if line.count(", ") == QUERY.count(",")]
    seen = _visible(len(rows))
    packages = tuple(name for name in SPEED_PACKAGES if importlib.util.find_spec(name) is not None)
    gpus, all_gpus = [], []
    for index, name, total, free, capability, load in rows:
        if index in seen and total.isdigit() and free.isdigit():
            device = f"cuda:{seen.index(index)}"
            own = (held or {}).get(device, 0)
            gpus.append(Hardware(device=device, name=name, total_bytes=int(total) * MIB,
                                 free_bytes=min(int(total), int(free) + own // MIB) * MIB, cores=_cores(), bf16=float(capability) >= 8.0,
                                 ram_bytes=_cpu().free_bytes, capability=_capability(capability), packages=packages))
            all_gpus.append(Gpu(device=device, held_bytes=own, name=name, total_bytes=gpus[-1].total_bytes, free_bytes=gpus[-1].free_bytes,
                                load=int(load) if load.isdigit() else None))
    return [replace(gpu, gpus=tuple(sorted(all_gpus, key=lambda one: one.device))) for gpu in gpus]


def _capability(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor or 0)


def _visible(count: int) -> list[str]:
    """Indices as torch numbers them: CUDA_VISIBLE_DEVICES hides and reorders. UUIDs there mean: leave it to the CPU."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(i) for i in range(count)] if wanted is None else [w.strip() for w in wanted.split(",") if w.strip()]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
