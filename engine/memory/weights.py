"""Bytes of a component's weights: all of them, those on the device while it works, and those moved for one pass."""

from __future__ import annotations

from engine.memory.placement import NUMBER_BYTES, STORED, Home
from engine.models.layout import Layout
from engine.spec import ModelSpec

WAITING_BLOCKS = 2
"""Blocks of a streamed component on the device at once: the working one and the one that arrives."""


def layout(spec: ModelSpec, part: str) -> Layout:
    """The layout of a component; one without blocks and matrices where the spec does not tell."""
    return spec.layout.get(part) or Layout(spec.component_parameters[part], 0, 0, 0, 0, 0, 0, 0)


def stored_bytes(found: Layout, home: Home, compute: str) -> int:
    """All weights of the component as kept, in bytes. `compute`: precision of the arithmetic."""
    return _bytes(found.numbers, found.matrices, found.rows, home, compute)


def working_bytes(found: Layout, home: Home, compute: str) -> int:
    """Weights on the device while the component works, and the widened copy of the largest matrix where stored in 8 bits."""
    wide = found.largest * NUMBER_BYTES[compute] if home.precision not in NUMBER_BYTES else 0
    if home.residency != "streamed" or found.blocks <= WAITING_BLOCKS:
        return stored_bytes(found, home, compute) + wide
    outside = _bytes(found.numbers - found.blocks * found.block, max(0, found.matrices - found.blocks * found.block_matrices),
                     max(0, found.rows - found.blocks * found.block_rows), home, compute)
    return outside + slot_bytes(found, home, compute) + wide


def slot_bytes(found: Layout, home: Home, compute: str) -> int:
    """The blocks of a streamed component that are there at once; 0 for one that is not streamed."""
    if home.residency != "streamed" or found.blocks <= WAITING_BLOCKS:
        return 0
    return WAITING_BLOCKS * _bytes(found.block, found.block_matrices, found.block_rows, home, compute)


def moved_bytes(found: Layout, home: Home, compute: str) -> int:
    """Weights that cross to the device for one pass through the component: the blocks of a streamed one, else none."""
    if home.residency != "streamed" or found.blocks <= WAITING_BLOCKS:
        return 0
    return found.blocks * _bytes(found.block, found.block_matrices, found.block_rows, home, compute)


def _bytes(numbers: int, matrices: int, rows: int, home: Home, compute: str) -> int:
    wide = NUMBER_BYTES[compute]
    if home.precision in NUMBER_BYTES:
        return numbers * NUMBER_BYTES[home.precision]
    return (numbers - matrices) * wide + matrices * STORED[home.precision] + rows * wide  # one scale a row
