"""CFG gate: from a share of the steps on, the half without the words is no longer run (LinearAG's simplest case).

    before    v = u + w (c - u)                     c: predicted with the prompt, u: with the negative prompt
    after     v = c + (w - 1) (c - u)*              (c - u)*: of the last full step before the gate

Adaptive Guidance, https://arxiv.org/abs/2312.12487; FastVideo's `FASTVIDEO_CFG_GATE_STEP` is the same rule. Halves the work of every step
after the gate.
"""

from __future__ import annotations


def first_gated(gate: float, steps: int) -> int:
    """The first of `steps` steps that runs without the negative prompt. `gate`: share of the steps before it, above 0 to 1.

    At least 1: the difference has to be seen once. `steps` for a gate of 1: none is.
    """
    return max(1, int(steps * gate))
