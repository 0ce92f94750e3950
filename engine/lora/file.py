"""One LoRA file, read and checked without torch: header, alphas, and whether every number is finite.

Raises `InvalidRequest` (field 'loras') for everything that cannot be used. What the file says about itself is untrusted
text.
"""

from __future__ import annotations

import json
import math
import struct
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from engine.errors import InvalidRequest, ModelInvalid
from engine.lora import names
from engine.models.weights import WeightFile, read_header

MAX_RANK = 1024
MAX_LORA_BYTES = 4 * 2**30
MAX_LORA_HEADER = 16 * 2**20
MAX_TRIGGER_CHARS = 200
DTYPES = ("F32", "F16", "BF16")
SCALARS = {"F32": "<f", "F16": "<e", "F64": "<d", "I64": "<q", "I32": "<i"}
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
PICKLE_STARTS = (b"PK\x03\x04", *(bytes((0x80, protocol)) for protocol in range(2, 6)))
"""torch.save writes a zip, older ones and pickle itself begin with the protocol."""
TRIGGERS = ("modelspec.trigger_phrase", "trigger_word", "trigger_words", "trigger", "instance_prompt", "id_token")
PIECE_NUMBERS = 2**22
NO_ALPHA = ("The file does not say its alpha, so it is taken to be the rank, as diffusers and peft do. If this LoRA was trained with "
            "another alpha, give it the weight alpha / rank.")


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """The change of one layer."""

    down: str
    """Name in the file of A (rank, takes)."""
    up: str
    """Name in the file of B (gives, rank)."""
    rank: int
    takes: int
    gives: int
    alpha: float
    divisor: float
    """The rank, or its square root (rsLoRA): the change is times alpha / divisor."""


@dataclass(frozen=True, slots=True)
class Lora:
    """One file. `layers` by the name of the transformer's layer."""

    layers: Mapping[str, LoraLayer]
    size: int
    """Bytes of the file."""
    numbers: int
    dtype: str
    """'fp32', 'fp16' or 'bf16': of most numbers, as stored."""
    trigger: str
    """The word that calls it up, where the file says one; plain text, never markup."""
    notes: tuple[str, ...]

    @property
    def rank(self) -> int:
        """The highest of its layers."""
        return max(layer.rank for layer in self.layers.values())

    @property
    def alpha(self) -> float:
        """Of the layer with the highest rank."""
        return max(self.layers.values(), key=lambda layer: layer.rank).alpha

    @property
    def targets(self) -> tuple[str, ...]:
        """Which kinds of layers it changes: 'attn1.to_q', ..."""
        return tuple(sorted({names.target(name) for name in self.layers}))

    @property
    def blocks(self) -> int:
        """Blocks a transformer must have for it, 0 where it changes none."""
        return max((block for name in self.layers if (block := names.block_of(name)) is not None), default=-1) + 1

    @property
    def width(self) -> int | None:
        """Channels of the transformer it was made for; None where its layers do not tell."""
        told = (layer.takes for name, layer in self.layers.items()
                if names.target(name) in ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj"))
        return next(told, None)


def read_lora(path: Path, called: str | None = None) -> Lora:
    """The LoRA in `path`; `called` is how messages name the file. Reads all of it once.

    Raises `InvalidRequest`: no file, a pickle, cut off, no LoRA of a CogVideoX transformer, half a LoRA, an alpha that is
    missing for some layers or contradicts itself, a rank above 1,024, NaN or infinity.
    """
    shown = called or path.name
    stored, entries, metadata = _read(path, shown)
    tensors = stored.tensors
    parts, alphas = _sorted(tensors, shown)
    shapes = {layer: _layer_shape(layer, both, tensors, shown) for layer, both in parts.items()}
    ranks = {layer: shape[0] for layer, shape in shapes.items()}
    with path.open("rb") as file:
        said = {layer: _scalar(file, *entries[tensor]) for layer, tensor in alphas.items()}
        scales, notes = _scales(ranks, said, metadata, shown)
        for name, (dtype, _shape) in tensors.items():
            _check_finite(file, name, dtype, entries[name][1], shown)
    layers = {layer: LoraLayer(parts[layer]["A"], parts[layer]["B"], *shapes[layer], *scales[layer]) for layer in parts}
    return Lora(layers, stored.size, sum(layer.rank * (layer.takes + layer.gives) for layer in layers.values()), stored.dtype,
                _trigger(metadata), notes)


Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
Entries = Mapping[str, tuple[str, tuple[int, int]]]
"""dtype and (first byte, byte after the last) in the file."""


def _refuse(shown: str, why: str, cause: BaseException | None = None) -> NoReturn:
    raise InvalidRequest("loras", f"{shown[:80]!r} {why}") from cause


def _read(path: Path, shown: str) -> tuple[WeightFile, Entries, Mapping[str, Any]]:
    """The checked header, where its tensors lie, and the file's own notes."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        _refuse(shown, f"cannot be read ({error.strerror}).", error)
    if size == 0:
        _refuse(shown, "is empty (0 bytes). Fetch it again.")
    if Path(shown).suffix.lower() in PICKLED or start.startswith(PICKLE_STARTS):
        _refuse(shown, "is a pickle, which can run any program when it is opened, so Sprocket never opens one. Get the LoRA as "
                       ".safetensors.")
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    if size > MAX_LORA_BYTES or MAX_LORA_HEADER < length <= size:
        _refuse(shown, f"has {size:,} bytes, {length:,} of them header; at most {MAX_LORA_BYTES:,} and {MAX_LORA_HEADER:,} are read. "
                       "A LoRA is far smaller: is this a whole model?")
    try:
        weights = read_header(path)
    except ModelInvalid as error:
        why = str(error).replace(f"{path} ", "").replace("Fetch the model again.", "Fetch the LoRA again.")
        _refuse(shown, why, error)
    with path.open("rb") as file:
        file.seek(8)
        header = json.loads(file.read(length))
    own = header.pop("__metadata__", None)
    entries = {name: (entry["dtype"], (8 + length + entry["data_offsets"][0], 8 + length + entry["data_offsets"][1]))
               for name, entry in header.items()}
    return weights, entries, own if isinstance(own, dict) else {}


def _sorted(tensors: Tensors, shown: str) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """({layer: {'A': tensor, 'B': tensor}}, {layer: tensor of its alpha}); every tensor of the file is one of them."""
    parts: dict[str, dict[str, str]] = {}
    alphas: dict[str, str] = {}
    if kind := names.other_kind(list(tensors)):
        _refuse(shown, f"is a {kind}, which this version of Sprocket does not apply. It takes LoRAs without additions.")
    for tensor in tensors:
        found = names.parse(tensor)
        if names.of_text_encoder(tensor):
            _refuse(shown, f"changes a text encoder ({tensor[:80]}); Sprocket applies LoRAs of the transformer only.")
        if found is None or not names.is_layer(found[0]):
            _refuse(shown, f"holds {tensor[:100]!r}, which is no part of a LoRA for a CogVideoX transformer. It was made for another "
                           "kind of model, or is no LoRA.")
        layer, part = found
        into = alphas if part == "alpha" else parts.setdefault(layer, {})
        key = layer if part == "alpha" else part
        if key in into:
            _refuse(shown, f"names {part} of {layer} twice ({into[key][:80]!r} and {tensor[:80]!r}). Fetch it again.")
        into[key] = tensor
    for layer in sorted({*parts, *alphas}):
        if missing := [part for part in ("A", "B") if part not in parts.get(layer, {})]:
            _refuse(shown, f"lacks {' and '.join(missing)} of {layer}; a LoRA needs both A (down) and B (up) of every layer. Fetch "
                           "it again.")
    return parts, alphas


def _layer_shape(layer: str, both: Mapping[str, str], tensors: Tensors, shown: str) -> tuple[int, int, int]:
    """(rank, takes, gives) of a layer."""
    (down_type, down), (up_type, up) = (tensors[both[part]] for part in ("A", "B"))
    for dtype in (down_type, up_type):
        if dtype not in DTYPES:
            _refuse(shown, f"stores {layer} as {dtype}; {', '.join(DTYPES)} are read.")
    if len(down) != 2 or len(up) != 2 or down[0] != up[1] or 0 in (*down, *up):
        _refuse(shown, f"has shapes {down} and {up} for A and B of {layer}; they must be (rank, inputs) and (outputs, rank) of one "
                       "matrix.")
    if down[0] > MAX_RANK:
        _refuse(shown, f"has rank {down[0]:,} at {layer}; at most {MAX_RANK:,} is run. Resize the LoRA to a lower rank.")
    return down[0], down[1], up[0]


def _scalar(file: Any, dtype: str, span: tuple[int, int]) -> float:
    """One number of the file; NaN for anything that is not one number."""
    file.seek(span[0])
    data = file.read(min(span[1] - span[0], 8))
    if dtype == "BF16" and len(data) == 2:
        return float(struct.unpack("<f", b"\0\0" + data)[0])
    try:
        return float(struct.unpack(SCALARS[dtype], data)[0])
    except (KeyError, struct.error):
        return math.nan


def _scales(ranks: Mapping[str, int], said: Mapping[str, float], metadata: Mapping[str, Any],
            shown: str) -> tuple[dict[str, tuple[float, float]], tuple[str, ...]]:
    """({layer: (alpha, divisor)}, notes): by the file's tensors, by its adapter config, or alpha = rank."""
    if said and len(said) < len(ranks):
        without = next(layer for layer in ranks if layer not in said)
        _refuse(shown, f"says alpha for {len(said)} of {len(ranks)} layers ({without} has none), so its strength is not known. Save "
                       "it again with an alpha for every layer, or with none.")
    for layer, alpha in said.items():
        _check_alpha(alpha, layer, shown)
    config = _adapter_config(metadata, shown)
    scales = {layer: (said.get(layer, float(rank)), float(rank)) for layer, rank in ranks.items()}
    if config is None:
        return scales, () if said else (NO_ALPHA,)
    for layer, rank in ranks.items():
        alpha, expected = _from_config(config, layer, shown)
        if expected != rank:
            _refuse(shown, f"says rank {expected} for {layer} and has {rank}: its notes belong to another file. Fetch it again.")
        if layer in said and not math.isclose(said[layer], alpha, rel_tol=1e-3):
            _refuse(shown, f"says alpha {alpha:g} in its config and {said[layer]:g} beside the weights of {layer}, so its strength is "
                           "not known. Save it again with one of them.")
        scales[layer] = (alpha, math.sqrt(rank) if config.get("use_rslora") else float(rank))
    return scales, ()


def _check_alpha(alpha: object, layer: str, shown: str) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha) or not 0 < alpha <= 1e6:
        _refuse(shown, f"says alpha {str(alpha)[:20]} for {layer}; it must be a number above 0, up to 1,000,000. Fetch it again.")


def _adapter_config(metadata: Mapping[str, Any], shown: str) -> dict[str, Any] | None:
    """What diffusers writes as `lora_adapter_metadata`: peft's config of the transformer; None where there is none."""
    text = metadata.get("lora_adapter_metadata")
    if not isinstance(text, str):
        return None
    try:
        every = json.loads(text)
        own = {key.removeprefix("transformer."): value for key, value in every.items() if key.startswith("transformer.")}
    except (ValueError, AttributeError, RecursionError) as error:
        _refuse(shown, f"has damaged notes (lora_adapter_metadata: {str(error)[:80]}). Fetch it again.", error)
    if "lora_alpha" not in own and "r" not in own:
        return None
    if own.get("use_dora"):
        _refuse(shown, "is a dora, which this version of Sprocket does not apply. It takes LoRAs without additions.")
    return own


def _from_config(config: Mapping[str, Any], layer: str, shown: str) -> tuple[float, int]:
    """(alpha, rank) that peft's config says for `layer`."""
    alpha = _pattern(config, "alpha_pattern", layer, config.get("lora_alpha"), shown)
    rank = _pattern(config, "rank_pattern", layer, config.get("r"), shown)
    _check_alpha(alpha, layer, shown)
    if isinstance(rank, bool) or not isinstance(rank, int):
        _refuse(shown, f"says rank {str(rank)[:20]} in its config, which is no whole number. Fetch it again.")
    return float(alpha), rank


def _pattern(config: Mapping[str, Any], name: str, layer: str, default: Any, shown: str) -> Any:
    """peft's rule: the value of the first key that is the layer's name or its end. Keys that are expressions are refused."""
    patterns = config.get(name) or {}
    if not isinstance(patterns, dict):
        _refuse(shown, f"has damaged notes ({name} is no table). Fetch it again.")
    for key, value in patterns.items():
        plain = key.removeprefix("^")
        if not plain.replace("_", "").replace(".", "").isalnum():
            _refuse(shown, f"has {key[:60]!r} in its {name}; only plain names of layers are read.")
        if layer == plain or (plain == key and layer.endswith(f".{plain}")):
            return value
    return default


def _check_finite(file: Any, name: str, dtype: str, span: tuple[int, int], shown: str) -> None:
    import numpy as np  # a tenth of a second, and plans do without

    kinds: Mapping[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
    if dtype not in kinds:  # an alpha, looked at by itself
        return
    file.seek(span[0])
    left = (span[1] - span[0]) // np.dtype(kinds[dtype]).itemsize
    while left:
        piece = np.frombuffer(file.read(min(left, PIECE_NUMBERS) * np.dtype(kinds[dtype]).itemsize), kinds[dtype])
        if not len(piece):
            _refuse(shown, "became shorter while it was read. Try again.")
        bad = (piece & 0x7F80) == 0x7F80 if dtype == "BF16" else ~np.isfinite(piece)  # bf16: all bits of the exponent
        if bad.any():
            _refuse(shown, f"holds NaN or infinity in {name[:100]}: it is damaged, or its training went wrong. Use another one.")
        left -= len(piece)


def _trigger(metadata: Mapping[str, Any]) -> str:
    for key in TRIGGERS:
        text = metadata.get(key)
        if isinstance(text, str) and text.strip():
            clean = "".join(char for char in text if not unicodedata.category(char).startswith("C") or char == " ")
            return clean.strip()[:MAX_TRIGGER_CHARS]
    return ""
