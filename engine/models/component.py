"""One component of a checkpoint, its weights kept where and how its `Home` says.

    resident    on the device from the beginning to the end
    staged      on the device from `ready()` to `rest()`; in between in the computer's memory, or nowhere but in the files
    streamed    the same for what is outside its blocks; the blocks pass by (`engine.models.streaming`)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import CannotFit
from engine.memory.placement import NUMBER_BYTES, Home
from engine.memory.weights import WAITING_BLOCKS
from engine.models.convolution import use_onednn
from engine.models.eight_bit import narrow
from engine.models.fresh_blocks import FreshBlocks
from engine.models.loading import Weight, WeightFiles, in_blocks, skeleton, tables_of, weights_of
from engine.models.streaming import BlockStream, FromFiles, FromMemory, Source, pack

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FP8_CAPABILITY = (8, 9)
BLOCKS = {"text_encoder": "encoder.block", "transformer": "transformer_blocks"}
"""Where the repeated blocks of a component are."""


class Component:
    """Owns the weights of one component. `module` has numbers from `ready()` to `rest()`; `close()` lets everything go."""

    def __init__(self, kind: Any, folder: Path, part: str, home: Home, compute: str, device: torch.device, *,
                 trained: bool = False) -> None:
        """Load `part` of the class `kind` from `folder`. Arithmetic is in `compute`, but for a home in FP16, which works in that.
        `trained`: gradients are taken through it, so streamed blocks come into memory of their own.

        Raises `ModelInvalid` for missing, misshapen or non-finite weights, `CannotFit` for products in FP8 on a GPU without them.
        """
        if home.precision == "fp8-dynamic" and device.type == "cuda" and torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
            raise CannotFit(f"{torch.cuda.get_device_name(device)} has no products in FP8 (compute capability 8.9 and above have). "
                            "Use fp8, which only stores in it.")
        self.home, self.device = home, device
        self.dtype = DTYPES["fp16" if home.precision == "fp16" else compute]
        self.module = skeleton(kind, folder)
        if home.precision not in NUMBER_BYTES:
            narrow(self.module, home.precision)
        use_onednn(self.module)  # whoever loads a VAE gets the same numbers from it
        self.stream: BlockStream | FreshBlocks | None = None
        self._passing = FreshBlocks if trained else BlockStream
        self._ready = False
        self._files = WeightFiles(folder)
        self._source: Source | None = None
        try:
            self._load(part)
        except BaseException:
            if self._source is not None:
                self._source.close()
            self._files.close()
            raise
        if home.source == "ram" or home.residency == "resident":
            self._files.close()

    def _load(self, part: str) -> None:
        weights = weights_of(self.module, self._files, self.dtype, self.device)
        self._tables = tables_of(self.module, self.dtype)
        self._blocks: list[nn.Module] = []
        self._waiting: dict[Weight, list[Tensor]] = {}
        self._staged = weights
        if self.home.residency == "streamed" and part in BLOCKS:
            blocks = list(self.module.get_submodule(BLOCKS[part]))
            if len(blocks) > WAITING_BLOCKS:  # fewer are all there at once: nothing is to be gained
                by_block, self._staged = in_blocks(weights, len(blocks), BLOCKS[part] + ".")
                self._blocks, self._packings = blocks, [pack(block) for block in by_block]
                source = FromMemory if self.home.source == "ram" else FromFiles
                self._source = source(self._packings, self._files, self.device)
        if self.home.residency == "resident":
            self.ready()
        elif self.home.source == "ram":
            self._waiting = {weight: self._read(weight) for weight in self._staged}
            self._let_wait()

    def _read(self, weight: Weight) -> list[Tensor]:
        read = [one.room() for one in weight.all]
        self._files.fill(weight, read)
        return read

    def ready(self) -> Any:
        """The module, its weights on the device or on their way block by block."""
        if not self._ready:
            self._gather(self.device)
            if self._source is not None:
                self.stream = self._passing(self._blocks, self._packings, self._source, self.device)
            self._ready = True
        return self.module

    def rest(self) -> None:
        """Leave the device, unless at home there."""
        if self._ready and self.home.residency != "resident":
            self._stop()
            self._let_wait()

    @contextmanager
    def borrowed(self) -> Iterator[Any]:
        """The module with its numbers wherever they can be had without the device: for work of milliseconds beside a stage.

        Not for streamed components.
        """
        read = not self._ready and self.home.source == "disk"
        if read:
            self._gather(torch.device("cpu"))
        try:
            yield self.module
        finally:
            if read:
                self._let_wait()

    def close(self) -> None:
        """Let weights, files and threads go."""
        self._stop()
        for weight in self._staged:
            for one in weight.all:
                one.unbind()
        if self._source is not None:
            self._source.close()
        self._waiting, self._tables, self._source = {}, [], None
        self._files.close()

    def _gather(self, device: torch.device) -> None:
        """Bind what is outside the streamed blocks to copies on `device`."""
        with torch.inference_mode(False):
            for weight in self._staged:
                found = self._waiting.get(weight) or self._read(weight)
                for one, tensor in zip(weight.all, found, strict=True):
                    one.bind(tensor.to(device))
            for owner, attribute, table in self._tables:
                owner._buffers[attribute] = table.to(device)

    def _let_wait(self) -> None:
        for weight in self._staged:
            for one, tensor in zip(weight.all, self._waiting.get(weight, weight.all), strict=True):
                one.bind(tensor) if isinstance(tensor, Tensor) else one.unbind()
        for owner, attribute, table in self._tables:
            owner._buffers[attribute] = table

    def _stop(self) -> None:
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        self._ready = False
