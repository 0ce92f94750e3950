"""How the numbers of a component are spread over its repeated blocks and its matrices, read off tensor names and shapes.

This is all the memory formulas need to know of weights: what a block that is streamed takes, and what 8-bit storage saves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

BLOCK = re.compile(r"^(transformer_blocks|encoder\.block)\.(\d+)\.")
KEPT = ("norm", "patch_embed", "shared", "embed", "relative_attention_bias", "time_", "ofs_", "pos_", "proj_out")
"""Parts of names whose tensors keep their precision when a component is stored in 8 bits: norms and their modulation,
embeddings of patches, tokens, positions and time, and the last projection. (diffusers keeps the norms and the patch embedding as well:
`CogVideoXTransformer3DModel._skip_layerwise_casting_patterns`.)"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Counts of numbers (parameters and stored buffers) of one component."""

    numbers: int
    """All of them."""
    matrices: int
    """Of them, in matrices that 8-bit storage shrinks."""
    rows: int
    """Output rows of those matrices: 8-bit storage keeps one scale for each."""
    largest: int
    """Numbers of the largest such matrix: what one layer needs at the precision it computes in."""
    blocks: int
    """Repeated blocks; 0 where there are none."""
    block: int
    """Numbers of the largest block."""
    block_matrices: int
    block_rows: int

    def to_json(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def shrinks(name: str, shape: tuple[int, ...]) -> bool:
    """Whether 8-bit storage shrinks the tensor `name`: a matrix that `KEPT` does not spare."""
    return len(shape) == 2 and name.endswith(".weight") and not any(word in name for word in KEPT)


def layout_of(tensors: Mapping[str, tuple[int, ...]]) -> Layout:
    """The layout of a component from its tensors' names and shapes."""
    total, matrices, rows, largest = 0, 0, 0, 0
    blocks: dict[str, list[int]] = {}
    for name, shape in tensors.items():
        count = math.prod(shape)
        total += count
        if eight := shrinks(name, shape):
            matrices, rows, largest = matrices + count, rows + shape[0], max(largest, count)
        if found := BLOCK.match(name):
            sums = blocks.setdefault(found[2], [0, 0, 0])
            for index, value in enumerate((count, count if eight else 0, shape[0] if eight else 0)):
                sums[index] += value
    block = max(blocks.values(), default=[0, 0, 0])
    return Layout(total, matrices, rows, largest, len(blocks), *block)
