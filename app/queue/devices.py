"""Who works with which device of this computer.

    together    one worker, which takes job after job, each on as many devices as it asks for
    each        one worker a GPU, each with jobs of its own: many videos sooner, instead of one

The choice is kept in the history, so that every page, every host and the command line mean the same; until somebody has chosen,
`Settings.devices` holds. Where there is one device, both are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from app.history.store import Store
from app.settings import DEVICE_MODES, EACH, HERE, TOGETHER, Settings
from engine.errors import InvalidRequest
from engine.hardware import Hardware

KEY = "devices"


def mode_of(store: Store, settings: Settings) -> str:
    """'together' or 'each'. Raises what `Store.recall` raises."""
    known = store.recall(KEY)
    return known[0] if known is not None and known[0] in DEVICE_MODES else settings.devices


def set_mode(store: Store, mode: str) -> None:
    """From now on, for every host of this history. Raises InvalidRequest (devices)."""
    if mode not in DEVICE_MODES:
        raise InvalidRequest("devices", f"is {mode!r:.40}; use {EACH} (one job per GPU) or {TOGETHER} (all GPUs for one job).",
                             suggestion=TOGETHER)
    store.remember(KEY, mode, now=time.time())


def wanted(mode: str, hardware: Hardware) -> tuple[str, ...]:
    """The workers there should be: '' for one that has all devices, else the device of each."""
    if mode == EACH and len(hardware.gpus) > 1:
        return tuple(gpu.device for gpu in hardware.gpus)
    return ("",)


def shared_out(store: Store, settings: Settings, hardware: Callable[[], Hardware]) -> bool:
    """True where every GPU of this computer has jobs of its own. `hardware` is asked only where it matters: that takes a moment."""
    return settings.executor == HERE and mode_of(store, settings) == EACH and len(wanted(EACH, hardware())) > 1


def environment(device: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What a worker's environment says, so that it sees `device` ('cuda:N') alone; nothing for ''."""
    if not device:
        return {}
    index = int(device.partition(":")[2])
    visible = [one.strip() for one in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    # The number is nvidia-smi's; CUDA counts by speed unless told otherwise.
    return {"CUDA_VISIBLE_DEVICES": visible[index] if visible else str(index),
            "CUDA_DEVICE_ORDER": environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")}
