"""Regional compiling: each transformer block by itself, since all of them share one code and so one compilation.

diffusers' `compile_repeated_blocks` refuses CogVideoX (its list of repeated blocks is empty). Compiling happens at the first
call of a new shape; where one comes beyond those that dynamo holds (8), all are forgotten and it begins anew. A compiler that
fails (no C++ compiler, no Triton, a bug) costs a note and not the clip: the blocks are called uncompiled from then on, the
failed call included, for blocks do not change their inputs.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import config as dynamo
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

log = logging.getLogger(__name__)


class CompiledBlocks:
    """The compiled blocks of one transformer. `undo()` gives back what was there."""

    def __init__(self, transformer: Any, *, backend: str | Callable[..., Any] = "inductor", mode: str | None = None) -> None:
        """Nothing is compiled yet. `backend`, `mode`: as for `torch.compile`."""
        self.problem = ""
        """Why the blocks are not compiled any more; '' while they are."""
        self._blocks = list(transformer.transformer_blocks)
        self._before = [block.__dict__.get("forward") for block in self._blocks]
        for block in self._blocks:
            plain = block.forward
            block.forward = _Guarded(self, plain, torch.compile(plain, backend=backend, mode=mode, dynamic=False))

    def undo(self) -> None:
        """Every block as before; may be called twice."""
        for block, forward in zip(self._blocks, self._before, strict=True):
            block.__dict__.pop("forward", None)
            if forward is not None:
                block.forward = forward
        self._blocks, self._before = [], []

    def give_up(self, error: Exception) -> None:
        """Uncompiled from now on."""
        words = " ".join(str(error).split("\n\n")[0].split())  # without the advice that torch adds
        self.problem = f"{type(error).__name__}: {words[:300]}"
        log.warning("the transformer's blocks cannot be compiled here (%s); they run uncompiled, with the same result.", self.problem)
        self.undo()


def compiled_for_any_size(compiled: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A call of what `torch.compile(..., dynamic=False)` gave. Dynamo left to itself runs what goes beyond its limit of sizes uncompiled,
    and says so in its own log alone."""
    with dynamo.patch(fail_on_recompile_limit_hit=True):
        try:
            return compiled(*args, **kwargs)
        except FailOnRecompileLimitHit:
            torch.compiler.reset()
            return compiled(*args, **kwargs)


class _Guarded:
    """A block's forward that falls back to the plain one where compiling fails."""

    def __init__(self, owner: CompiledBlocks, plain: Callable[..., Any], compiled: Callable[..., Any]) -> None:
        self.owner, self.plain, self.compiled = owner, plain, compiled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.owner.problem:
            return self.plain(*args, **kwargs)
        # The first block gets parts of one tensor, the others whole ones: with one layout, one compilation serves all.
        dense = {name: value.contiguous() if isinstance(value, Tensor) else value for name, value in kwargs.items()}
        try:
            return compiled_for_any_size(self.compiled, *args, **dense)
        except torch.OutOfMemoryError:
            raise
        except (TorchDynamoException, FailOnRecompileLimitHit, RuntimeError, ImportError, OSError, AssertionError, NotImplementedError,
                subprocess.SubprocessError) as error:
            # A compiled call can fail as the plain one would (a wrong shape): then the plain one says so.
            made = self.plain(*args, **kwargs)
            self.owner.give_up(error)
            return made
