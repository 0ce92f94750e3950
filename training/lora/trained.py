"""What every kind of training does with its weights: hand them out, take them back, average them, show the average."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from training.lora.config import TrainConfig
from training.lora.sharding import as_is, whole


class Trained:
    """The trained weights of one run, in a fixed order, always float32."""

    def __init__(self, transformer: Any, config: TrainConfig, parameters: Mapping[str, torch.nn.Parameter]) -> None:
        self.transformer, self.config = transformer, config
        self.parameters: dict[str, torch.nn.Parameter] = dict(parameters)
        self.average: dict[str, Tensor] | None = None
        self.shared_out = False
        """Whether each process holds a share: then all of them must ask for the weights together."""

    def share_out(self, device: torch.device) -> None:
        """Let every process hold a share of what is large. Before anything else happens to the weights."""
        from training.lora.sharding import shard

        shard(self.transformer, device)
        if any("lora_" in name for name in self.parameters):
            return  # a LoRA is small
        self.shared_out = True
        self.parameters = dict(sorted(self.transformer.named_parameters()))
        if self.average is not None:
            self.average = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def about_to_see(self, batch: Any) -> None:
        """Called before each pass through the transformer."""

    def begin_average(self) -> None:
        """Where the settings want a running average, it begins with the weights as they are."""
        if self.config.ema:
            self.average = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the trained weights on the processor."""
        return {name: whole(parameter.detach()).cpu().clone().contiguous() for name, parameter in self.parameters.items()}

    def final(self) -> dict[str, Tensor]:
        """What is exported: the running average where there is one."""
        return self.tensors() if self.average is None else {name: whole(value).cpu().clone() for name, value in
                                                                   self.average.items()}

    def load(self, tensors: Mapping[str, Tensor], average: Mapping[str, Tensor] | None) -> None:
        """Raises KeyError or RuntimeError for other names or shapes."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(as_is(tensors[name], parameter))
                if self.average is not None:
                    self.average[name].copy_(as_is((average or tensors)[name], parameter))

    def update_average(self, step: int) -> None:
        """After update number `step`; a young average forgets faster."""
        if self.average is None:
            return
        decay = min(self.config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.average[name].lerp_(parameter, 1 - decay)

    def digest(self) -> str:
        """64 hex digits over every bit of the trained weights."""
        return digest_of(self.tensors())

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Inside, the transformer works with what would be exported."""
        if self.average is None:
            yield
            return
        trained = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        try:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(self.average[name])
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(trained[name])


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """64 hex digits over names and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
