"""The weights of a LoRA: peft's layers in the transformer, always in float32.

peft gives new layers the base's precision; in bf16 a step of usual size is lost in rounding for A, so they are float32 here whatever
the base is. Their first values come from the run's own streams of randomness.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear as LoraLinear

from engine.errors import InvalidRequest
from engine.models.eight_bit import EightBitLinear
from training.lora.config import TrainConfig
from training.lora.streams import generator
from training.lora.trained import Trained

ADAPTER = "default"


def peft_config(config: TrainConfig) -> LoraConfig:
    """As it stands in the file's notes too."""
    alpha: Any = config.effective_alpha  # peft takes any number
    made = LoraConfig(r=config.rank, lora_alpha=alpha, lora_dropout=config.dropout, target_modules=sorted(config.layers),
                      use_rslora=config.rslora, use_dora=config.dora, init_lora_weights=True, bias="none")
    made._register_custom_module({EightBitLinear: LoraLinear})
    return made


class Adapter(Trained):
    """The trained weights of one run, by peft's names, in a fixed order."""

    def __init__(self, transformer: Any, config: TrainConfig) -> None:
        """Adds the layers. Raises `InvalidRequest` for a rank above a layer's width, or targets the model has not."""
        _check_rank(transformer, config)
        with warnings.catch_warnings(), _codes_shown(transformer):
            warnings.simplefilter("ignore")
            transformer.add_adapter(peft_config(config), adapter_name=ADAPTER)
        for name, parameter in transformer.named_parameters():
            parameter.requires_grad_("lora_" in name)
            if "lora_" in name:
                parameter.data = parameter.data.float()
        super().__init__(transformer, config, {
            _plain(name): parameter for name, parameter in sorted(transformer.named_parameters()) if parameter.requires_grad})
        self._begin()
        self.begin_average()

    def _begin(self) -> None:
        """A as peft's default (Kaiming uniform with a = sqrt 5, which is 1 / sqrt inputs), B zero."""
        with torch.no_grad():
            for number, (name, parameter) in enumerate(self.parameters.items()):
                if ".lora_A." in name:
                    bound = 1 / math.sqrt(parameter.shape[1])
                    drawn = torch.rand(parameter.shape, generator=generator(self.config.seed, "init", number), dtype=torch.float32)
                    parameter.copy_(drawn * 2 * bound - bound)


@contextmanager
def _codes_shown(transformer: Any) -> Iterator[None]:
    """peft asks a layer without `weight` for `qweight`, to put its own beside it."""
    layers = [layer for layer in transformer.modules() if isinstance(layer, EightBitLinear)]
    for layer in layers:
        vars(layer)["qweight"] = layer.codes
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["qweight"]


def _plain(name: str) -> str:
    """peft's name of a weight without that of the adapter: 'transformer_blocks.0.attn1.to_q.lora_A.weight'."""
    return name.replace(f".{ADAPTER}.", ".").replace(f".lora_magnitude_vector.{ADAPTER}", ".lora_magnitude_vector")


def _check_rank(transformer: Any, config: TrainConfig) -> None:
    found = 0
    for name, layer in transformer.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.endswith(config.layers):
            found += 1
            most = min(layer.in_features, layer.out_features)
            if config.rank > most:
                raise InvalidRequest("rank", f"is {config.rank}, but {name} is {layer.out_features} x {layer.in_features}: a change of "
                                             f"it has rank {most} at most.", suggestion=most)
    if not found:
        raise InvalidRequest("targets", f"is {config.targets[:60]!r}, and this model has no such layer.", suggestion="attention")
