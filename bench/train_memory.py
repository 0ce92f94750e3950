"""What training CogVideoX-5B takes at its own size: `python -m bench.train_memory`.

A LoRA of rank 64 on 49 x 480 x 720 in bf16, without a weight and without a GPU. First the plans for budgets from 80 down to 8 GiB, as
`sprocket train --dry-run` prints them for a GPU of that size. Then live bytes of one pass forward and back through diffusers' own
transformer with peft's layers, counted on the meta device (`bench.meta_memory.Meter`), beside the forecast. Attention counts as a flash
kernel does. Exit status 1 where no plan of 8 GiB exists, or a forecast is off by more than 10 %.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.meta_memory import GIB, LIMIT, Meter
from engine.facts import configs, published
from engine.hardware import Hardware
from engine.memory import Shape, latent_frames, tokens
from engine.memory.peak import CONTEXT_BYTES
from engine.models.eight_bit import narrow
from engine.spec import ModelSpec
from training.lora import memory
from training.lora.adapter import Adapter
from training.lora.config import TrainConfig
from training.lora.forecast import SHARE, Choice, choose_memory, cost

NAME = "CogVideoX-5b"
BUDGETS = (80, 40, 24, 16, 12, 8)
TARGET = 8.0
CONFIG = TrainConfig(model=NAME, dataset="d", name="n", rank=64, precision="bf16")


def gpu(gib: float) -> Hardware:
    size = int(gib * GIB)
    return Hardware(device="cuda:0", name=f"a GPU of {gib:g} GiB", total_bytes=size, free_bytes=size, cores=8, bf16=True,
                    ram_bytes=64 * GIB)


class _Flash(torch.autograd.Function):
    """Attention that keeps what a flash kernel keeps: its inputs, its output, and one float32 a query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query.transpose(1, 2)).transpose(1, 2)
        ctx.save_for_backward(query, key, value, out, torch.empty(query.shape[:3], dtype=torch.float32, device=query.device))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        query, key, value, _out, _sums = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def _flash() -> Iterator[None]:
    """A torch function mode would not last: torch leaves it while it recomputes."""
    stock = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda query, key, value, **_: _Flash.apply(query, key, value)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = stock


@contextmanager
def _beside(meter: Meter) -> Iterator[None]:
    """Offloaded tensors count as the computer's own memory."""
    stock = memory.save_on_cpu
    hooks = lambda **_: torch.autograd.graph.saved_tensors_hooks(meter.elsewhere, torch.empty_like)  # noqa: E731
    memory.save_on_cpu = hooks  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        memory.save_on_cpu = stock  # type: ignore[misc]


def counted(spec: ModelSpec, config: TrainConfig, policy: tuple[str, ...]) -> int:
    """Peak bytes of one pass forward and back beside all weights, with the LoRA's gradients."""
    from diffusers import CogVideoXTransformer3DModel

    shape = Shape(spec.native_frames, spec.native_height, spec.native_width, False)
    with torch.device("meta"):
        model = CogVideoXTransformer3DModel.from_config(configs(spec.name)["transformer"]).eval().requires_grad_(False)
    if config.base != "same":
        narrow(model, config.base)
    model = model.to(torch.bfloat16) if config.base == "same" else _half(model)
    adapter = Adapter(model, config)
    memory.use_policy(model, policy)
    sampled, _ = latent_frames(spec, shape.frames)
    size = (sampled, spec.latent_channels, shape.height // spec.spatial_scale, shape.width // spec.spatial_scale)
    meter = Meter([*model.parameters(), *model.buffers()])
    with meter, _flash(), _beside(meter), torch.device("meta"):
        noisy, target, text = torch.empty(1, *size), torch.empty(1, *size), torch.empty(1, spec.max_text_tokens, spec.text_width)
        count = tokens(spec, shape) - spec.max_text_tokens
        rotary = (torch.empty(count, spec.width // spec.heads), torch.empty(count, spec.width // spec.heads))
        out = model(hidden_states=noisy.bfloat16(), encoder_hidden_states=text.bfloat16(), timestep=torch.empty(1, dtype=torch.int64),
                    image_rotary_emb=rotary, return_dict=False)[0]
        (out.float() - target).square().mean().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters.values())
    return meter.peak


def _half(model: Any) -> Any:
    """bf16, but for codes."""
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None and value.dtype == torch.float32:
                module._parameters[name] = torch.nn.Parameter(value.to(torch.bfloat16), requires_grad=False)
    return model


def plans(spec: ModelSpec) -> Choice | None:
    """Prints the plan for each budget; that for the target."""
    print(f"LoRA of rank {CONFIG.rank} on {spec.name}, {spec.native_frames} x {spec.native_height} x {spec.native_width}, bf16, "
          f"{CONFIG.optimizer}; {SHARE:.0%} of a budget is planned with")
    found = None
    for budget in BUDGETS:
        choice = choose_memory(spec, CONFIG, gpu(budget))
        parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in choice.parts.items())
        print(f"{budget:>3} GiB   {choice.bytes / GIB:6.2f} GiB ({parts})   {choice.words}")
        found = choice if budget == TARGET else found
    return found


def main() -> int:
    torch.set_num_threads(1)
    spec, worst = published(NAME), 0.0
    least = plans(spec)
    print(f"\n{'one pass, forward and back, GiB':<58} {'counted':>8} {'forecast':>8} {'error':>7}")
    layers = spec.layers
    for base, policy, streamed in (("same", ("recompute",) * layers, ""), ("int8", ("recompute",) * layers, ""),
                                   ("same", ("offload",) * layers, "ram"), ("int8", ("offload",) * layers, "ram"),
                                   ("same", ("keep",) * 2 + ("recompute",) * (layers - 2), "")):
        config = replace(CONFIG, base=base)
        said = cost(spec, config, gpu(80), policy, None, streamed)
        beside = said.parts["weights"] + said.parts["lora"] * 3 // 4  # the meter counts its gradients, a quarter
        real = counted(spec, config, policy) + beside
        wanted = said.bytes - CONTEXT_BYTES
        worst = max(worst, abs(wanted / real - 1))
        what = f"base {base}, {policy[0]}{', streamed' if streamed else ''}"
        print(f"{what:<58} {real / GIB:8.2f} {wanted / GIB:8.2f} {wanted / real - 1:+7.1%}", flush=True)
    good = least is not None and least.bytes <= TARGET * GIB
    print(f"a plan of {TARGET:g} GiB exists: {good}; largest error {worst:.1%} (wanted <= {LIMIT:.0%})")
    return 0 if good and worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
