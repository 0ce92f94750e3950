"""Owns the loaded model between jobs, so that the second clip starts at once."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Any

from engine.plan import Plan

if TYPE_CHECKING:
    from engine.models.cogvideox import CogVideoX
    from engine.parallel.fleet import Fleet
    from engine.preview import LatentColours


CHATTY = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")
"""Loggers of libraries that warn, when they are imported, of parts that are not used here."""


class ModelCache:
    """Holds at most one model: two would not fit where it matters."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._model: CogVideoX | None = None
        self._colours: LatentColours | None = None
        self.fleet: Fleet | None = None
        """Processes kept warm for clips on several devices (`engine.parallel.drive`); never beside a model of this process."""

    def get(self, plan: Plan) -> CogVideoX:
        """The model `plan` asks for, loaded now if the held one is another. Raises `ModelInvalid`."""
        homes = tuple(plan.placement.homes.values())
        key = (str(plan.spec.path), plan.spec.fingerprint, plan.dtype, plan.device, homes, plan.attention, plan.compile)
        if self._model is None or key != self._key:
            self.close()  # before loading, or both would be in memory
            for name in CHATTY:
                logging.getLogger(name).setLevel(logging.ERROR)
            from engine.models.accelerate import Ways
            from engine.models.cogvideox import CogVideoX  # seconds of imports, and torch

            self._model = CogVideoX(plan.spec, dtype=plan.dtype, device=plan.device, placement=plan.placement,
                                    ways=Ways(plan.attention, plan.attention_asked, plan.compile))
            self._key = key
        self._model.arrange(plan.placement)
        return self._model

    def colours(self, plan: Plan) -> LatentColours:
        """The latent-to-RGB map of the held model: the one it ships with, else one fitted now, once."""
        model = self.get(plan)
        if self._colours is None:
            from engine.preview import LatentColours

            self._colours = LatentColours.read(plan.spec.path / "latent_rgb.json", plan.spec.latent_channels)
        if self._colours is None:
            with model.components["vae"].borrowed() as vae:
                self._colours = LatentColours.fit(vae, plan.spec.scaling_factor)
        return self._colours

    def close(self) -> None:
        """Let the weights go. The cache can be used again after."""
        if self.fleet is not None:
            self.fleet.close()
            self.fleet = None
        if self._model is not None:
            self._model.close()
        self._model = self._key = self._colours = None
        gc.collect()
