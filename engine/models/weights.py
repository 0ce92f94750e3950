"""Weight files on disk: which ones belong to a component, and what their safetensors headers promise. No torch.

The format: 8 bytes little-endian header length, a JSON object {tensor name: {dtype, shape, data_offsets}}, the data.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ModelInvalid

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_INDEX_BYTES = 16 * 2**20
STEMS = ("diffusion_pytorch_model", "model")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
               "F8_E4M3": 1, "F8_E5M2": 1}
DTYPE_NAMES = {"F32": "fp32", "F16": "fp16", "BF16": "bf16"}


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One safetensors file whose header has been checked against its length."""

    path: Path
    size: int
    header_bytes: int
    """Bytes before the first tensor's data."""
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    """Name -> (dtype as in the header, shape)."""
    begins: dict[str, int] = field(default_factory=dict)
    """Name -> the byte of the file that its data begins at."""

    @property
    def data_bytes(self) -> int:
        return self.size - self.header_bytes

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for _, shape in self.tensors.values())

    @property
    def dtype(self) -> str:
        """Of most of the numbers: 'fp32', 'fp16' or 'bf16'; the header's own word for anything else."""
        sizes: dict[str, int] = {}
        for dtype, shape in self.tensors.values():
            sizes[dtype] = sizes.get(dtype, 0) + math.prod(shape)
        most = max(sizes, key=lambda dtype: sizes[dtype])
        return DTYPE_NAMES.get(most, most)


def component_weights(folder: Path) -> tuple[WeightFile, ...]:
    """The weight files of one component, one or several shards, headers checked.

    Raises `ModelInvalid` for pickled weights, missing shards and broken headers.
    """
    for stem in STEMS:
        if (folder / f"{stem}.safetensors").is_file():
            return (read_header(folder / f"{stem}.safetensors"),)
        if (folder / f"{stem}.safetensors.index.json").is_file():
            return tuple(read_header(path) for path in _shards(folder / f"{stem}.safetensors.index.json"))
    pickled = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLED) if folder.is_dir() else []
    if pickled:
        raise ModelInvalid(f"{folder} has only pickled weights ({', '.join(pickled)[:200]}). A pickle can run any "
                           "program when it is opened, so Sprocket never opens one. Get the model as .safetensors.")
    raise ModelInvalid(f"{folder} has no weights: model.safetensors or diffusion_pytorch_model.safetensors is missing. "
                       "Fetch the model again.")


def _shards(index: Path) -> list[Path]:
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"{index.stat().st_size:,} bytes")
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelInvalid(f"{index} cannot be read ({type(error).__name__}: {error}). "
                           "Fetch the model again.") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelInvalid(f"{index} names {str(name)[:80]!r} as a shard; only safetensors files beside it are "
                               "read.")
        if not (index.parent / name).is_file():
            raise ModelInvalid(f"{index.parent} lacks the shard {name}. Fetch the model again.")
    return [index.parent / name for name in names]


def read_header(path: Path) -> WeightFile:
    """The header of one file, checked: JSON, known dtypes, data without gaps or overlap, length as promised.

    Raises `ModelInvalid`.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(MAX_HEADER_BYTES, max(size - 8, 0)):
            raise ModelInvalid(f"{path} is no safetensors file or was cut off: it promises a header of {length:,} "
                               f"bytes and has {size:,} in all. Fetch the model again.")
        try:
            header = json.loads(file.read(length))
            tensors, begins, end = _tensors(header)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelInvalid(f"{path} has a damaged header ({type(error).__name__}: {str(error)[:120]}). "
                               "Fetch the model again.") from error
    if 8 + length + end != size:
        raise ModelInvalid(f"{path} has {size:,} bytes, but its header promises {8 + length + end:,}: the download was "
                           "cut off or the file is damaged. Fetch the model again.")
    return WeightFile(path, size, 8 + length, tensors, {name: 8 + length + begin for name, begin in begins.items()})


def _tensors(header: Any) -> tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, int], int]:
    """Tensors and their offsets by name, and the offset behind the last one. Raises ValueError or KeyError for a lie in the header."""
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    begins = {}
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if not all(isinstance(n, int) and 0 <= n < 2**40 for n in (*shape, begin, end)):
            raise ValueError(f"{name[:60]} has an impossible shape")
        if end - begin != DTYPE_BYTES[dtype] * math.prod(shape):
            raise ValueError(f"{name[:60]} has {end - begin} bytes for shape {shape}")
        tensors[name], begins[name] = (dtype, shape), begin
        spans.append((begin, end))
    spans.sort()
    if not spans:
        raise ValueError("no tensors")
    for (_, before), (begin, _) in zip([(0, 0), *spans], spans, strict=False):
        if begin != before:
            raise ValueError("gaps or overlaps in the data")
    return tensors, begins, spans[-1][1]
