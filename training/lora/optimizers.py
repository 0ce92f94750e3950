"""Optimizers, all from libraries, and their state as plain tensors and JSON: nothing is pickled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from engine.errors import InvalidRequest
from training.lora.config import TrainConfig
from training.lora.sharding import as_is, whole

PACKAGES = {"adamw8bit": "torchao", "prodigy": "prodigyopt", "came": "came_pytorch"}


def make_optimizer(config: TrainConfig, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Raises `InvalidRequest` where its library is not installed."""
    given, betas = list(parameters), (config.beta1, config.beta2)
    common: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    try:
        if config.optimizer == "adam":
            return torch.optim.Adam(given, betas=betas, eps=config.epsilon, **common)
        if config.optimizer == "adamw":
            return torch.optim.AdamW(given, betas=betas, eps=config.epsilon, **common)
        if config.optimizer == "adafactor":
            return torch.optim.Adafactor(given, **common)
        if config.optimizer == "adamw8bit":
            from training.lora.eight_bit_adam import EagerAdamW8bit

            return EagerAdamW8bit(given, betas=betas, eps=config.epsilon, **common)
        if config.optimizer == "prodigy":
            from prodigyopt import Prodigy

            return Prodigy(given, betas=betas, beta3=config.beta3, eps=config.epsilon, decouple=config.prodigy_decouple,
                           use_bias_correction=config.prodigy_bias_correction, safeguard_warmup=config.prodigy_safeguard_warmup, **common)
        from came_pytorch import CAME

        return CAME(given, betas=(config.beta1, config.beta2, 0.9999 if config.beta3 is None else config.beta3), **common)
    except ImportError as error:
        package = PACKAGES.get(config.optimizer, "its library")
        raise InvalidRequest("optimizer", f"{config.optimizer} needs {package}, which cannot be imported ({str(error)[:100]}). "
                                          f"`pip install {package}`, or use adamw.", suggestion="adamw") from error


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the next update."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # torchao keeps it so, and refuses a number
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def state_of(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, the rest as JSON) of an optimizer's state."""
    tensors: dict[str, Tensor] = {}
    state = optimizer.state_dict()

    def packed(path: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            value = whole(value)
            if hasattr(value, "__tensor_flatten__") and type(value) is not Tensor:
                parts, _context = value.__tensor_flatten__()
                return {"parts": {part: packed(f"{path}.{part}", getattr(value, part)) for part in parts}}
            tensors[path] = value.detach().cpu().clone().contiguous()
            return {"tensor": path}
        if isinstance(value, (list, tuple)):
            return {"list" if isinstance(value, list) else "tuple": [packed(f"{path}.{i}", each) for i, each in enumerate(value)]}
        return {"value": value}

    rest = {"state": {str(index): {key: packed(f"{index}.{key}", value) for key, value in each.items()}
                      for index, each in state["state"].items()},
            "groups": [{key: packed(f"group{number}.{key}", value) for key, value in group.items()}
                       for number, group in enumerate(state["param_groups"])]}
    return tensors, rest


def restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """The inverse of `state_of`, for an optimizer made with the same settings."""

    def unpacked(value: Mapping[str, Any]) -> Any:
        if "tensor" in value:
            return tensors[value["tensor"]].clone()
        for word, kind in (("list", list), ("tuple", tuple)):
            if word in value:
                return kind(unpacked(each) for each in value[word])
        return value.get("value")

    if any("parts" in value for each in rest["state"].values() for value in each.values()):
        _restore_packed(optimizer, tensors, rest)
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def placed(value: Any, parameter: Tensor) -> Any:
        return as_is(value, parameter) if isinstance(value, Tensor) else value

    state = {int(index): {key: placed(unpacked(value), parameters[int(index)]) for key, value in each.items()}
             for index, each in rest["state"].items()}
    optimizer.load_state_dict({"state": state, "param_groups": [{key: unpacked(value) for key, value in group.items()}
                                                                for group in rest["groups"]]})


def _restore_packed(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Optimizers that keep their state in 8 bits: it is made by them, and its numbers are put in."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with torch.no_grad():
        for index, each in rest["state"].items():
            parameter = parameters[int(index)]
            for key, value in each.items():
                if "parts" not in value:
                    plain = tensors[value["tensor"]].clone() if "tensor" in value else value.get("value")
                    # As `Optimizer.load_state_dict` does: all but the count of steps works beside the parameter.
                    optimizer.state[parameter][key] = (plain.to(parameter.device) if isinstance(plain, Tensor) and key != "step" else plain)
                    continue
                made = optimizer._new_buffer(parameter, signed=key == "exp_avg")  # type: ignore[attr-defined]
                for part, where in value["parts"].items():
                    getattr(made, part).copy_(tensors[where["tensor"]])
                optimizer.state[parameter][key] = made
