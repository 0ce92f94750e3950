"""Preview clips while training, by the very path Create takes, with the model that is being trained.

`engine.run.run` asks a cache for its model; `Held` hands it the trained one, its LoRA in place. Nothing of it touches training: a clip's
noise has a generator of its own, no weight changes its precision or place, and the LoRA's digest is compared before and after.
"""

from __future__ import annotations

import hashlib
import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from engine.events import ClipWritten, StepDone
from engine.hardware import Hardware
from engine.models.cogvideox import CogVideoX
from engine.plan import Plan, plan
from engine.preview import LatentColours
from engine.request import GenerationRequest
from engine.run import run
from engine.video.publish import write_atomic
from engine.video.recipe import build_recipe
from training.lora.config import TrainConfig
from training.lora.samples import Sample
from training.lora.trained import Trained


class Held:
    """In place of `engine.models.cache.ModelCache`: the model there is, whatever the plan would load."""

    def __init__(self, model: CogVideoX) -> None:
        self._model = model

    def get(self, _plan: Plan) -> CogVideoX:
        return self._model

    def colours(self, asked: Plan) -> LatentColours:
        shipped = LatentColours.read(asked.spec.path / "latent_rgb.json", asked.spec.latent_channels)
        if shipped is not None:
            return shipped
        with self._model.components["vae"].borrowed() as vae:
            return LatentColours.fit(vae, asked.spec.scaling_factor)

    def close(self) -> None:
        """The trainer owns the model."""


def preview(model: CogVideoX, adapter: Trained, config: TrainConfig, machine: Hardware, prompt: str, folder: Path, *, number: int,
            cancelled: Callable[[], bool], tell: Callable[[int, int], None], start: Sample | None = None) -> Path:
    """The clip of `prompt` (<number>.mp4, .webp in `folder`). `start`: where an image model takes its first frame from.

    Raises as `engine.run.run`, and RuntimeError if the LoRA is not bit for bit what it was.
    """
    before, state = adapter.digest(), (torch.get_rng_state(), random.getstate(), np.random.get_state())
    inputs = folder / "inputs"
    image = _first_frame(start, inputs) if start is not None else None
    request = GenerationRequest(prompt=prompt, model=config.model, seed=config.preview_seed, frames=config.preview_frames or None,
                                steps=config.preview_sampling or None, image=image, device="cpu" if machine.device == "cpu" else "cuda")
    made = plan(request, model.spec, machine)
    part, work = folder / f".{number}.part", folder / f".work-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with adapter.showing():
            for event in run(made, part=part, workspace=work, recipe=build_recipe(made), models=Held(model),  # type: ignore[arg-type]
                             cancelled=cancelled, checkpoint_seconds=1e9, preview_seconds=1e9, inputs=inputs):
                if isinstance(event, StepDone):
                    tell(event.step, event.steps)
                if isinstance(event, ClipWritten):
                    write_atomic(folder / f"{number}.webp", event.poster_webp)
                    part.replace(folder / f"{number}.mp4")
    finally:
        part.unlink(missing_ok=True)
        shutil.rmtree(work, ignore_errors=True)
        for component in ("text_encoder", "vae"):
            model.components[component].rest()
        torch.set_rng_state(state[0])
        random.setstate(state[1])
        np.random.set_state(state[2])
    if adapter.digest() != before:
        raise RuntimeError("a preview changed the weights that are being trained; please report this.")
    return folder / f"{number}.mp4"


def _first_frame(start: Sample, inputs: Path) -> str:
    """The first frame of a sample, which its set keeps as a picture, as an input file (`engine.inputs`); its name."""
    packed = io.BytesIO()
    Image.fromarray(start.picture().cpu().numpy()).save(packed, "PNG")
    name = f"{hashlib.sha256(packed.getvalue()).hexdigest()}.png"
    write_atomic(inputs / name, packed.getvalue())
    return name


