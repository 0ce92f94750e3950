"""A loaded model that works together with the same model on other ranks; the loop sees one `VideoModel` as ever.

    predict        each half of guidance on its ranks; from the first block to the last product every rank has its part of the tokens
    encode_frames  rows of the pictures by rank, exactly
    decode         rows of the latents by rank, exactly; the first rank gets the frames

All else is computed by every rank alike. Between two calls nothing of this is on the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import OutputRejected
from engine.memory.shapes import decode_flops_per_pixel
from engine.models.attention import JointAttention
from engine.models.band_decode import decode_banded
from engine.models.bands import giving_back
from engine.models.cogvideox import pixels_of
from engine.models.vae_decode import decode_chunks
from engine.parallel.attend import SequenceAttend
from engine.parallel.bands import decode_rows, encode_rows
from engine.parallel.cost import LEAST_WORK
from engine.parallel.degrees import Share, deal
from engine.parallel.mesh import Mesh
from engine.parallel.tiles import decode_tiles
from engine.parallel.tokens import clip_share, divided_tokens
from engine.parallel.weights import compare_weights

EXACT = ("whole", "banded")


def spread(model: Any, mesh: Mesh, folder: Path) -> SpreadModel:
    """`model`, loaded from `folder` on every rank, on all of them. Raises `ModelInvalid`, on all, where weights differ."""
    compare_weights(mesh, folder)
    return SpreadModel(model, mesh)


class SpreadModel:
    """`engine.models.family.VideoModel` on all ranks of a mesh. Does not own the model."""

    def __init__(self, model: Any, mesh: Mesh, least_work: float = LEAST_WORK) -> None:
        self.model, self.mesh, self.least_work = model, mesh, least_work
        if mesh.degrees.sequence > 1 and not all(isinstance(one, JointAttention) for one in self._processors()):
            # diffusers' own would attend to its part alone, without a word
            model.transformer.set_attn_processor(JointAttention())
        self._attention = self._processors()
        """Looked up now: caches hide the blocks while they work."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def encode(self, prompt: str, negative: str | None) -> Tensor:
        """As the model's; the first rank's numbers, should GPUs differ in their last bits."""
        return self.mesh.same(self.model.encode(prompt, negative))

    @torch.inference_mode()
    def predict(self, latents: Tensor, timestep: Tensor, text: Tensor, beside: Tensor | None = None) -> Tensor:
        """As the model's, on every rank: float32 (rows of text, frames, channels, height, width)."""
        mesh = self.mesh
        divided = mesh.degrees.cfg == 2 and len(text) == 2
        rows = text[mesh.cfg:mesh.cfg + 1] if divided else text
        with self._sharing(latents.shape, text.shape[1]):
            velocity: Tensor = self.model.predict(latents, timestep, rows, beside)
        return mesh.halves(velocity) if divided else velocity

    def share(self, latents: tuple[int, ...], text: int) -> Share:
        """Who has which tokens of a clip with latents of this shape and `text` tokens of words."""
        return clip_share(self.mesh.degrees, self.model.spec, latents, text)

    @contextmanager
    def _sharing(self, latents: tuple[int, ...], text: int) -> Iterator[None]:
        """Within it the transformer's blocks see this rank's tokens, and their attention everybody's."""
        if self.mesh.degrees.sequence == 1:
            yield
            return
        share = self.share(latents, text)
        with divided_tokens(self.model.transformer, self.mesh, share), self._attending(share):
            yield

    @contextmanager
    def _attending(self, share: Share) -> Iterator[None]:
        kernels = {one: one.attend for one in self._attention}
        for one, kernel in kernels.items():
            one.attend = SequenceAttend(kernel, self.mesh, share)
        try:
            yield
        finally:
            for one, kernel in kernels.items():
                one.attend = kernel

    def _processors(self) -> set[Any]:
        return set(self.model.transformer.attn_processors.values())

    @torch.inference_mode()
    def encode_frames(self, frames: np.ndarray, tile: tuple[int, int], how: str = "whole") -> Iterator[tuple[int, Tensor]]:
        """As the model's, on every rank, and always exactly: a rank's rows take less memory than any tile."""
        sizes = self._rows(frames.shape[1] // self.model.spec.spatial_scale, frames[..., 0].size / 2)
        if sizes is None:
            yield from self.model.encode_frames(frames, tile, how)
        else:
            yield from giving_back(encode_rows(self.model.at_work("vae"), frames, self.mesh, sizes), self.model.device)

    @torch.inference_mode()
    def decode(self, latents: Tensor, tile: tuple[int, int], how: str = "whole") -> Iterator[Tensor]:
        """Chunks (frames, height, width, 3) uint8 on the first rank; (frames, 0, 0, 3) on the others, at the same moments.

        What would be decoded in tiles for want of memory is, with the tiles dealt out in turn: the picture of the same tiles.
        """
        spec = self.model.spec
        sizes = self._rows(latents.shape[3], latents[:, :, 0].numel() * spec.spatial_scale**2 * spec.temporal_scale)
        if sizes is None:
            yield from self._decode_alone(latents, tile, how)
            return
        if how not in EXACT:
            yield from self._decode_tiles(latents, tile, how)
            return
        vae, kept = self.model.at_work("vae"), self.model.components["vae"].dtype
        scaled = (1 / spec.scaling_factor * latents.permute(0, 2, 1, 3, 4)).to(kept)
        scale = spec.spatial_scale
        for chunk in giving_back(decode_rows(vae, scaled, self.mesh, sizes), self.model.device):
            self._refuse_nan(chunk)
            pixels = pixels_of(chunk)
            found = self.mesh.to_first(pixels, [scale * rows for rows in sizes], 1)
            yield pixels.new_empty(len(pixels), 0, 0, 3).cpu() if found is None else found.cpu()

    def _decode_tiles(self, latents: Tensor, tile: tuple[int, int], how: str) -> Iterator[Tensor]:
        vae, kept = self.model.at_work("vae"), self.model.components["vae"].dtype
        scaled = (1 / self.model.spec.scaling_factor * latents.permute(0, 2, 1, 3, 4)).to(kept)
        if how == "tiled":
            self.model.make_lean(vae)

        def chunks(cut: Tensor) -> Iterator[Tensor]:
            return decode_chunks(vae, cut, tile) if how == "tiled" else decode_banded(vae, cut)

        for count, chunk in giving_back(decode_tiles(vae, scaled, tile, self.mesh, chunks), self.model.device):
            self._refuse_nan(chunk)
            yield torch.empty(count, 0, 0, 3, dtype=torch.uint8) if chunk is None else pixels_of(chunk).cpu()

    def _refuse_nan(self, chunk: Tensor | None) -> None:
        """Raises `OutputRejected` on all ranks where one has numbers that are none."""
        if self.mesh.agree(chunk is not None and not bool(torch.isfinite(chunk).all())):
            raise OutputRejected("the decoder made numbers that are not finite (NaN). Likely cause: damaged weights of the VAE, or "
                                 "guidance far above this model's own.")

    def _decode_alone(self, latents: Tensor, tile: tuple[int, int], how: str) -> Iterator[Tensor]:
        """By the first rank; the others count its frames."""
        chunks = self.model.decode(latents, tile, how) if self.mesh.leads else iter(())
        while True:
            chunk = next(chunks, None)
            count = self.mesh.tell(None if chunk is None else len(chunk))
            if count is None:
                return
            yield torch.empty(count, 0, 0, 3, dtype=torch.uint8) if chunk is None else chunk

    def _rows(self, high: int, pixels: float) -> tuple[int, ...] | None:
        """Rows of latents by rank for a decode of so many pixels; None where there are fewer than ranks, or it is little work."""
        work = pixels * decode_flops_per_pixel(self.model.spec)
        return None if high < self.mesh.degrees.ranks or work < self.least_work else deal(high, self.mesh.degrees.ranks)

