"""What stands before and after the steps: T5 reading two texts, the VAE decoding 49 frames in every way there is."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch

from bench.gpu.device import GIB, Device
from bench.gpu.models import Case, build
from bench.gpu.report import Findings

WHOLE_BYTES = 17 * GIB
"""A stock whole decode at 49 x 480 x 720, weights included."""
REPEATS = 3


def text(case: Case, device: Device, found: Findings) -> None:
    """Puts 'text': seconds for both texts of a guided clip."""
    if device.real and device.room() < 11 * GIB:
        found.say(f"  T5: left out, {device.room() / GIB:.1f} GiB are free and 11 needed")
        return
    model = build(case, "text_encoder", device)
    ids = torch.zeros(1, case.spec.max_text_tokens, dtype=torch.long, device=device.torch)
    with torch.inference_mode():
        seconds = 2 * device.median(lambda: model(ids), repeats=REPEATS)
    found.put("text", seconds)
    found.say(f"  T5, two texts of {case.spec.max_text_tokens} tokens: {seconds:.3f} s")


def decode(case: Case, device: Device, found: Findings) -> None:
    """Puts 'decode': seconds of the fastest exact decode of ours."""
    vae = build(case, "vae", device)
    _, frames, channels, height, width = case.latents
    latents = device.normal(1, channels, frames, height, width)
    with torch.inference_mode():
        whole = None
        if not device.real or device.room() > WHOLE_BYTES:
            whole = _one("stock, whole", lambda: vae.decode(latents).sample, device, found)
        else:
            found.say(f"  stock, whole: left out, {device.room() / GIB:.1f} GiB are free and {WHOLE_BYTES / GIB:.0f} needed")
        vae.enable_tiling()
        _one("stock, tiled (approximate)", lambda: vae.decode(latents).sample, device, found)
        vae.disable_tiling()
        exact = []
        for name, work in _ours(vae, latents, case, found):
            made = _one(name, work, device, found)
            if made is not None:
                exact.append(made[0])
                if whole is not None:
                    found.say(f"    largest difference to stock whole {float((made[1] - whole[1]).abs().max()):.2e}")
    if exact:
        found.put("decode", min(exact))


def _one(name: str, work: Callable[[], Any], device: Device, found: Findings) -> tuple[float, torch.Tensor] | None:
    """(median seconds, frames on the processor); None where memory does not do."""
    try:
        frames = work().float().cpu()
        seconds, peak = device.median(work, repeats=REPEATS), device.peak(work)
    except torch.OutOfMemoryError:
        device.free()
        found.say(f"  {name:36} out of memory")
        return None
    found.say(f"  {name:36} {seconds:8.3f} s, peak {peak / GIB:6.2f} GiB")
    return seconds, frames


def lean_words(lean: bool, *, real: bool) -> str:
    """What was found where the lean decoder was tried: on a GPU it may differ from stock in roundings (`vae_decode.same_picture`)."""
    what = "picture but for rounding" if real else "bits"
    return f"the lean decoder gives stock's {what} here: {'yes, it is used' if lean else 'no, stock modules are used'}"


def _ours(vae: Any, latents: torch.Tensor, case: Case, found: Findings) -> list[tuple[str, Callable[[], torch.Tensor]]]:
    """Every exact decoder this version has."""
    from engine.models import vae_decode

    def streamed() -> torch.Tensor:
        return torch.cat(list(vae_decode.decode_chunks(vae, latents, (case.shape.height, case.shape.width))), dim=2)
    lean = vae_decode.speed_up(vae, latents.shape[1])
    found.say(f"  {lean_words(lean, real=latents.is_cuda)}")
    ways: list[tuple[str, Callable[[], torch.Tensor]]] = [("ours, streamed, exact", streamed)]
    try:
        banded = importlib.import_module("engine.models.band_decode").decode_banded
    except (ImportError, AttributeError):
        found.say("  ours in bands, exact: not in this version")
        return ways
    if next(iter(inspect.signature(banded).parameters), "") == "vae":
        ways.append(("ours in bands, exact", lambda: torch.cat(list(banded(vae, latents)), dim=2)))
    return ways
