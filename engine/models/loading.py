"""A component's numbers, read tensor by tensor from its files to where they are wanted.

    skeleton(kind, folder)          the module of its config, on the meta device: names and shapes, no numbers
    WeightFiles(folder)             its open files
    weights_of(module, files, ...)  each tensor of the module: its name in the files, its precision, who holds it

Files are read, not mapped: one that is cut off while it is used gives an error and no fatal signal, and nothing is in memory but
the tensor that was asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from engine.errors import ModelInvalid
from engine.models.eight_bit import EightBitLinear, in_eight_bits
from engine.models.weights import WeightFile, component_weights

FILE_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
               "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
               "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
FOREIGN = ("decoder.",)
"""Beginnings of names in T5 files that the encoder has no use for."""
LINE = 64
"""Bytes that memory for tensors begins at a multiple of; a memory-mapped file brings its own."""
UNREADABLE = (OSError, ValueError, RuntimeError, TypeError, KeyError, NameError, AttributeError)
"""What a config that lies makes of building its module; NameError: an unknown activation."""


@dataclass(frozen=True, eq=False, slots=True)
class Weight:
    """One tensor of a module as it is kept. In 8 bits a matrix is two of them: its codes and the scale of each row."""

    name: str
    """In the files."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    owners: tuple[tuple[nn.Module, str], ...]
    """Modules and attributes that hold it; more than one where it is tied."""
    scale: Weight | None = None
    """The scales that belong to codes."""
    lead: int = 0
    """Bytes after a multiple of `LINE` that it begins at."""

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    @property
    def all(self) -> tuple[Weight, ...]:
        """This one, and its scales if it is codes."""
        return (self,) if self.scale is None else (self, self.scale)

    @torch.inference_mode(False)
    def room(self) -> Tensor:
        """Memory for it."""
        return torch.empty(self.lead + self.nbytes, dtype=torch.uint8)[self.lead:].view(self.dtype).view(self.shape)

    def bind(self, value: Tensor) -> None:
        """Let the module's owners hold `value`."""
        held = nn.Parameter(value, requires_grad=False)
        for owner, attribute in self.owners:
            if attribute in owner._parameters:
                owner._parameters[attribute] = held
            else:
                owner._buffers[attribute] = value

    def unbind(self) -> None:
        """Let nobody hold its numbers."""
        self.bind(torch.empty(self.shape, dtype=self.dtype, device="meta"))


@dataclass(eq=False)
class WeightFiles:
    """The open weight files of one component. `close()` lets them go. Raises `ModelInvalid` for damaged ones."""

    folder: Path
    where: dict[str, tuple[WeightFile, BinaryIO]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._handles: list[BinaryIO] = []
        self._lock = threading.Lock()
        self._sound: set[str] = set()
        for file in component_weights(self.folder):
            handle = file.path.open("rb", buffering=0)
            self._handles.append(handle)
            self.where |= {name: (file, handle) for name in file.tensors}

    def close(self) -> None:
        for handle in self._handles:
            handle.close()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.where[name][0].tensors[name][1]

    def lead(self, name: str, dtype: torch.dtype) -> int:
        """How far from a multiple of `LINE` tensor `name` lies in a map of its file; 0 where `dtype` is another than the file's.

        diffusers maps files and computes with the numbers as they lie there, and some kernels of the processor are chosen by
        alignment. To give its very bits, weights lie here as they do there.
        """
        file = self.where[name][0]
        lead = file.begins[name] % LINE
        return 0 if FILE_DTYPES[file.tensors[name][0]] != dtype or lead % dtype.itemsize else lead

    @torch.inference_mode(False)
    def read(self, name: str, into: Tensor) -> None:
        """Fill `into` (on the processor, contiguous, of its shape) with tensor `name`, in the dtype of `into`.

        Raises `ModelInvalid` where the file ends before the tensor does, or holds NaN or infinity.
        """
        file, handle = self.where[name]
        stored = FILE_DTYPES[file.tensors[name][0]]
        raw = into if stored == into.dtype else torch.empty(into.shape, dtype=stored)
        target, done = memoryview(raw.reshape(-1).view(torch.uint8).numpy()), 0  # type: ignore[arg-type]
        with self._lock:
            handle.seek(file.begins[name])
            while done < len(target):
                count = handle.readinto(target[done:])  # type: ignore[attr-defined]
                if not count:
                    raise ModelInvalid(f"{file.path} ends in the middle of {name}: it was cut off or exchanged while it was in use. "
                                       "Fetch the model again.")
                done += count
        if raw is not into:
            into.copy_(raw)
        if name not in self._sound:
            if into.is_floating_point() and not torch.isfinite(into).all():
                raise ModelInvalid(f"{self.folder} holds NaN or infinity in {name}: the file is damaged or its training went "
                                   "wrong. Fetch the model again.")
            self._sound.add(name)

    def fill(self, weight: Weight, into: Sequence[Tensor]) -> None:
        """Read `weight` into one tensor, or its codes and scales into two."""
        if weight.scale is None:
            self.read(weight.name, into[0])
            return
        wide = torch.empty(weight.shape, dtype=torch.float32)
        self.read(weight.name, wide)
        for target, value in zip(into, in_eight_bits(wide, weight.dtype, weight.scale.dtype), strict=True):
            target.copy_(value)


def skeleton(kind: Any, folder: Path) -> Any:
    """The module `kind` as the config in `folder` says, in evaluation mode and without numbers. Raises `ModelInvalid`."""
    try:
        with torch.device("meta"):
            if issubclass(kind, PreTrainedModel):
                module = kind(kind.config_class.from_pretrained(folder, local_files_only=True))
            else:
                module = kind.from_config(kind.load_config(folder, local_files_only=True))
    except UNREADABLE as error:
        raise ModelInvalid(f"{folder} cannot be loaded ({type(error).__name__}: {str(error)[:300]}). "
                           "Fetch the model again.") from error
    return module.eval().requires_grad_(False)


def weights_of(module: Any, files: WeightFiles, dtype: torch.dtype, device: torch.device) -> list[Weight]:
    """Every tensor of `module` that the files hold, kept in `dtype`, or in the 8 bits of its `EightBitLinear`, for work on `device`.

    Raises `ModelInvalid` where names or shapes of the two differ.
    """
    owners: dict[str, list[tuple[nn.Module, str]]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    eight: dict[str, EightBitLinear] = {}
    for path, owner in module.named_modules():
        prefix = f"{path}." if path else ""
        if isinstance(owner, EightBitLinear):
            eight[f"{prefix}weight"] = owner
        held = {**owner._parameters, **{k: v for k, v in owner._buffers.items() if k not in owner._non_persistent_buffers_set}}
        for attribute, value in held.items():
            if value is None or (isinstance(owner, EightBitLinear) and attribute == "scale"):
                continue
            name = f"{prefix}{'weight' if attribute == 'codes' else attribute}"
            owners.setdefault(name, []).append((owner, attribute))
            shapes[name] = tuple(value.shape)
    _untie(owners, shapes, files)
    _compare(shapes, files)
    made = []
    for name, holders in owners.items():
        layer = eight.get(name)
        scale = None if layer is None else Weight(f"{name}.scale", shapes[name][:1], dtype, ((layer, "scale"),))
        kept = dtype if layer is None else layer.codes.dtype
        lead = files.lead(name, kept) if device.type == "cpu" else 0
        made.append(Weight(name, shapes[name], kept, tuple(holders), scale, lead))
    return made


def _untie(owners: dict[str, list[tuple[nn.Module, str]]], shapes: dict[str, tuple[int, ...]], files: WeightFiles) -> None:
    """T5's token embedding has two names, and the files have one of them or both, which are the same."""
    shared, tied = "shared.weight", "encoder.embed_tokens.weight"
    if shared in owners and tied in owners:
        kept, other = (shared, tied) if shared in files.where else (tied, shared)
        owners[kept] += owners.pop(other)
        shapes.pop(other)
        files.where.pop(other, None)


def _compare(shapes: dict[str, tuple[int, ...]], files: WeightFiles) -> None:
    for name in [name for name in files.where if name.startswith(FOREIGN) and name not in shapes]:
        if "shared.weight" in shapes or "encoder.embed_tokens.weight" in shapes:
            del files.where[name]
    problems = {"missing keys": shapes.keys() - files.where.keys(), "unexpected keys": files.where.keys() - shapes.keys(),
                "mismatched keys": {name for name in shapes.keys() & files.where.keys() if files.shape(name) != shapes[name]}}
    for what, names in problems.items():
        if names:
            raise ModelInvalid(f"{files.folder} has {len(names)} {what} ({', '.join(sorted(names)[:3])}): its "
                               "weights do not belong to its config. Fetch the model again.")


def tables_of(module: Any, dtype: torch.dtype) -> list[tuple[nn.Module, str, Tensor]]:
    """Buffers that no file holds, computed: CogVideoX-2B's sine and cosine positions."""
    made = []
    for owner in module.modules():
        for attribute in owner._non_persistent_buffers_set:
            if attribute != "pos_embedding":
                raise ModelInvalid(f"{type(owner).__name__} keeps {attribute}, which no file holds and Sprocket cannot compute.")
            table = owner._get_positional_embeddings(owner.sample_height, owner.sample_width, owner.sample_frames)
            made.append((owner, attribute, table.to(dtype)))
    return made


def in_blocks(weights: Iterable[Weight], count: int, prefix: str) -> tuple[list[list[Weight]], list[Weight]]:
    """(the weights of each of `count` blocks named `prefix` and a number, the rest)."""
    blocks: list[list[Weight]] = [[] for _ in range(count)]
    rest = []
    for weight in weights:
        if weight.name.startswith(prefix):
            blocks[int(weight.name[len(prefix):].split(".", 1)[0])].append(weight)
        else:
            rest.append(weight)
    return blocks, rest
