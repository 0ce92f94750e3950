"""The optimizer of the recipe: Muon for matrices and convolutions, Adam for all else.

Muon (K. Jordan et al., 2024) replaces the momentum of a weight matrix by the nearest
orthogonal matrix, found with five Newton-Schulz steps; it needs fewer steps than Adam, which
is what a CPU budget wants. Convolutions are flattened to (out, in * kernel). Updates are
scaled to the size of Adam's (Liu et al., 2025, "Muon is scalable"), so that one learning
rate serves both. `torch.optim.Muon` takes 2-D parameters only, hence this file.

State is a flat dict of named tensors, so a checkpoint is one safetensors file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .arithmetic import native

_BETAS = (0.9, 0.98)
_MOMENTUM = 0.95
_EPS = 1e-8


def orthogonalise(matrix: Tensor) -> Tensor:
    """Newton-Schulz approximation of U V^T of a 2-D matrix, in bf16 where that is native (singular values end in about 0.7..1.2)."""
    x = matrix.to(native(matrix.device.type))
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).float()


class MuonAdam:
    """Holds the optimizer state of named parameters. `adam_only`: name parts that Muon must not touch."""

    def __init__(self, named: dict[str, nn.Parameter], adam_only: tuple[str, ...] = ()):
        self.named = named
        self.count = 0
        self.state: dict[str, Tensor] = {}
        self.muon = {
            name
            for name, p in named.items()
            if p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 8 and not any(part in name for part in adam_only)
        }
        for name, p in named.items():
            self.state[f"{name}/m"] = torch.zeros_like(p)
            if name not in self.muon:
                self.state[f"{name}/v"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update from the gradients present; parameters without one stay."""
        self.count += 1
        for name, p in self.named.items():
            if p.grad is None:
                continue
            update = self._muon(name, p.grad) if name in self.muon else self._adam(name, p.grad)
            p.add_(update, alpha=-lr)
            p.grad = None

    def _muon(self, name: str, grad: Tensor) -> Tensor:
        m = self.state[f"{name}/m"].mul_(_MOMENTUM).add_(grad)
        look_ahead = grad.add(m, alpha=_MOMENTUM).flatten(1)
        scale = 0.2 * max(look_ahead.shape) ** 0.5
        return orthogonalise(look_ahead).mul_(scale).view_as(grad)

    def _adam(self, name: str, grad: Tensor) -> Tensor:
        b1, b2 = _BETAS
        m = self.state[f"{name}/m"].lerp_(grad, 1 - b1)
        v = self.state[f"{name}/v"].lerp_(grad.square(), 1 - b2)
        rms = (v / (1 - b2**self.count)).sqrt_().add_(_EPS)
        return (m / (1 - b1**self.count)).div_(rms)
