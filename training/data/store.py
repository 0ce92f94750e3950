"""Tensors in files that are named after what they were made from, written whole or not at all, and checked when they are read.

A file is a safetensors file whose metadata holds the sha256 of everything else in it. One flipped bit anywhere makes it `Damaged`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import SprocketError
from engine.video.publish import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

DIGEST = "sprocket_sha256"
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 1 << 20


class Damaged(SprocketError):
    """A file of the cache is not what was written."""

    code = "cache_damaged"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replaces what is at `path`. Raises `StorageBlocked` for a full or read-only disk."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header, body = _parts(save(plain))
    header["__metadata__"] = {DIGEST: _digest(header, body)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of 8, as the format asks
    write_atomic(path, len(text).to_bytes(LENGTH_BYTES, "little") + text + body)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of the file. Raises `Damaged` for one that is not exactly what was written, OSError."""
    from safetensors.torch import load

    data = path.read_bytes()
    try:
        header, body = _parts(data)
        kept = header.pop("__metadata__")[DIGEST]
        if kept != _digest(header, body):
            raise ValueError("its checksum differs")
        return load(data)
    except Exception as error:  # the library has no narrower class, and any of them says the same
        raise Damaged(f"{path.name[:16]}... in the cache is damaged ({str(error)[:100]}). Encode the set again, or resume the run: "
                      "only what is damaged is done anew.") from error


def sound(path: Path) -> bool | None:
    """Whether the file is exactly what was written; None where there is none."""
    try:
        header, body = _parts(path.read_bytes())
        return bool(header.pop("__metadata__")[DIGEST] == _digest(header, body))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        return False


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(data) - LENGTH_BYTES):
        raise ValueError("its header is cut off")
    header = json.loads(data[LENGTH_BYTES:LENGTH_BYTES + length])
    if not isinstance(header, dict):
        raise ValueError("its header is none")
    return header, data[LENGTH_BYTES + length:]


def _digest(header: Mapping[str, Any], body: bytes) -> str:
    tensors = {name: header[name] for name in sorted(header) if name != "__metadata__"}
    digest = hashlib.sha256(json.dumps(tensors, sort_keys=True).encode())
    digest.update(body)
    return digest.hexdigest()
