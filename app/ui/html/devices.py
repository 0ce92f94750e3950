"""The devices of this computer on Create, with load and memory, and whether they work together. Folded; drawn when it is opened."""

from __future__ import annotations

from dataclasses import dataclass

from app.hub.words import amount
from app.settings import EACH, TOGETHER
from app.ui.html.common import button, esc
from engine.hardware import Hardware

MODES = ((TOGETHER, "All GPUs for one job", "one video, sooner"), (EACH, "One job per GPU", "many videos, sooner"))


@dataclass(frozen=True, slots=True)
class DevicesView:
    """All that the fold says."""

    hardware: Hardware
    mode: str
    """Of `app.settings.DEVICE_MODES`."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    note: str
    total: int
    free: int
    load: int | None


def devices_html(view: DevicesView | None) -> str:
    """The fold. None: not opened yet. No text in it is trusted."""
    if view is None:
        body = '<p class="quiet">Looking…</p>'
    else:
        rows = "".join(map(_row, _rows(view.hardware)))
        problem = f'<p class="source-problem" role="alert">{esc(view.problem)}</p>' if view.problem else ""
        again = button("Look again", "devices", kind="small")
        body = f'<ul class="device-list">{rows}</ul>{_switch(view)}{problem}<div class="device-again">{again}</div>'
    return (f'<details class="devices" data-open="devices"><summary>Load and memory of the devices, and who shares them</summary>'
            f"{body}</details>")


def _rows(hardware: Hardware) -> list[_Row]:
    if not hardware.gpus:
        note = f"{hardware.cores} core{'s' if hardware.cores != 1 else ''}; no GPU is used here"
        return [_Row(hardware.name, note, hardware.total_bytes, hardware.free_bytes, None)]
    return [_Row(f"GPU {gpu.device.partition(':')[2]}", gpu.name, gpu.total_bytes, gpu.free_bytes, gpu.load) for gpu in hardware.gpus]


def _row(row: _Row) -> str:
    used = max(row.total - row.free, 0)
    load = _meter("Load", row.load / 100, f"{row.load} %") if row.load is not None else ""
    memory = _meter("Memory", used / row.total if row.total else 0.0, f"{amount(row.free)} of {amount(row.total)} free")
    return (f'<li class="device"><div class="device-name"><b>{esc(row.name)}</b> <span class="quiet">{esc(row.note)}</span></div>'
            f"{memory}{load}</li>")


def _meter(label: str, share: float, words: str) -> str:
    percent = round(100 * min(max(share, 0.0), 1.0))
    kind = " full" if percent >= 85 else ""
    return (f'<div class="meter"><span>{label}</span><span class="bar{kind}" role="meter" aria-label="{label}" aria-valuemin="0" '
            f'aria-valuemax="100" aria-valuenow="{percent}"><i style="width:{percent}%"></i></span><span>{esc(words)}</span></div>')


def _switch(view: DevicesView) -> str:
    several = len(view.hardware.gpus) > 1
    if not several:
        return '<p class="quiet">With one device there is nothing to share out: one job after the other.</p>'
    choices = "".join(
        f'<button type="button" class="device-mode" data-act="share_devices" data-mode="{mode}" '
        f'aria-pressed="{str(mode == view.mode).lower()}"><b>{label}</b><span>{words}</span></button>' for mode, label, words in MODES)
    return f'<div class="device-modes" role="group" aria-label="Who shares the GPUs">{choices}</div>'
