"""The clean latents of the last full steps, and those of the next ones predicted from them."""

from __future__ import annotations

from torch import Tensor

from engine.cache.taylor import differences, predicted


class CleanLatents:
    """Of one run. Each is float32 (rows of guidance, frames, channels, height, width)."""

    def __init__(self, order: int) -> None:
        """`order`: of the highest difference that is used; 0: the last ones are taken as they are."""
        self.order = order
        self._terms: list[Tensor] = []
        """D_0 .. D_order, see `engine.cache.taylor`."""

    def learn(self, clean: Tensor, gap: int) -> None:
        """Those of a full step, `gap` steps after the last one."""
        # Past the gate only the row with the words goes on, which is the last.
        self._terms = differences([term[-len(clean):] for term in self._terms], clean, gap, self.order)

    def guess(self, ahead: int, rows: int) -> Tensor:
        """Those `ahead` steps after the last full one, for the last `rows` rows."""
        made: Tensor = predicted([term[-rows:] for term in self._terms], ahead)
        return made

    def distance(self, clean: Tensor) -> float:
        """|F - F'| / |F'| of those of a full step to those of the last one; 0 for the first."""
        if not self._terms:
            return 0.0
        before = self._terms[0][-len(clean):]
        return float((clean - before).norm() / before.norm())
