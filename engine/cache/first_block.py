"""First-block cache: how much the first block's change differs from the last full step's tells how much the others' would.

    d = mean |r_1(t) - r_1(t')| / mean |r_1(t')|,    r_1: output - input of the first block, t': the last full step

Where d is below the threshold, the other blocks are skipped and the clean latents are taken from t'. (The original takes the other
blocks' changes; `engine.cache.shortcut` says why not here.) The rule is ParaAttention's
(https://github.com/chengzeyi/ParaAttention), after TeaCache (https://arxiv.org/abs/2411.19108). A skipped step still costs its first
block: 1/6 of a step of the pocket model, 1/42 of a 5B model's.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FirstBlock:
    """Decides by one number a step. Both halves of guidance are judged together."""

    threshold: float = 0.38
    """Largest d of a skipped step. On the pocket model, under fresh noise, d is about 0.2 sqrt(k), k steps after a full one."""
    retained: float = 0.28
    """Share of the steps at the start that are always run in full: there the picture is laid out."""
    last: int = 1
    """Steps at the end that are always run in full."""
    most: int = 6
    """Most steps skipped in a row."""

    def decide(self, step: int, steps: int, since: int, change: float) -> bool:
        """True: run step `step` of `steps` in full. `since`: steps since the last full one (at least 1); `change`: d."""
        if step < max(1, round(self.retained * steps)) or step >= steps - self.last or since > self.most:
            return True
        return not change < self.threshold  # NaN is no reason to skip
