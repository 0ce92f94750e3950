"""The studio's LoRAs: looked at without torch, kept under their own hash with a small record, told from what they fit.

    data folder/loras/<sha256>.safetensors  .json

Nothing else may write there, and requests name LoRAs by hash only: no path ever comes from the network.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import NotAllowed, NotFound
from app.inputs import copy_in
from app.settings import Settings
from engine.digest import file_sha256
from engine.errors import InvalidRequest, ModelInvalid
from engine.lora import Lora, model_layers, read_lora
from engine.lora.file import MAX_LORA_BYTES
from engine.request import LORA_NAME
from engine.spec import ModelSpec
from engine.video.publish import storage_errors, write_atomic

MAX_FILE_CHARS = 120


@dataclass(frozen=True, slots=True)
class LoraCard:
    """One LoRA as people see it. Its own words (`file`, `trigger`) are untrusted text."""

    name: str
    """What requests call it: `<sha256>.safetensors`."""
    file: str
    """What the file was called that was added; '' where that is not known."""
    size: int
    rank: int
    """The highest of its layers."""
    alpha: float
    targets: tuple[str, ...]
    """Which kinds of layers it changes: 'attn1.to_q', ..."""
    blocks: int
    """Blocks its transformer must have."""
    width: int | None
    """Channels of the transformer it was made for; None where its layers do not tell."""
    dtype: str
    trigger: str
    notes: tuple[str, ...]
    layers: Mapping[str, tuple[int, int]]
    """(outputs, inputs) of every layer it changes."""
    added_at: float

    def to_json(self) -> dict[str, Any]:
        """All fields by name but `layers`, JSON types only."""
        values = dataclasses.asdict(self)
        del values["layers"]
        return values | {"targets": list(self.targets), "notes": list(self.notes)}

    def fits(self, spec: ModelSpec) -> bool:
        """True where every layer it changes is in the checkpoint, in the same shape. A damaged checkpoint has none."""
        return not self.misfit(spec)

    def misfit(self, spec: ModelSpec) -> str:
        """Why it does not fit the checkpoint, in a sentence; '' where it does."""
        try:
            known = model_layers(spec)
        except (ModelInvalid, OSError):
            return f"The files of {spec.name} cannot be read."
        for layer, shape in self.layers.items():
            if layer not in known:
                return f"It changes {layer}, which {spec.name} does not have: it was made for a model with {self.blocks} blocks."
            if known[layer] != shape:
                there = " x ".join(map(str, known[layer]))
                return (f"It changes a {layer.rpartition('.')[2]} of {shape[0]} x {shape[1]}; that of {spec.name} is {there}. It was made "
                        "for another model.")
        return ""


class Loras:
    """The shelf of LoRAs of one studio."""

    def __init__(self, settings: Settings, *, in_use: Callable[[], Iterable[str]] = tuple) -> None:
        self._settings, self._in_use = settings, in_use

    @property
    def folder(self) -> Path:
        return self._settings.loras_dir

    def add(self, path: Path, *, called: str | None = None) -> LoraCard:
        """Keeps a copy of a LoRA file; the same file is kept once, under the name it first had. `called`: that name, if not `path`'s.

        Raises InvalidRequest (field 'loras') for anything that is no LoRA of a CogVideoX transformer, StorageBlocked.
        """
        called = _shown(path.name if called is None else called)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        part = self.folder / f"{secrets.token_hex(8)}.part"
        with storage_errors(self.folder):
            try:
                copy_in(path, part, "loras", MAX_LORA_BYTES)
                lora = read_lora(part, called)  # what was looked at is what is kept, even if the original changes meanwhile
                name = f"{file_sha256(part)}.safetensors"
                if not (self.folder / name).is_file():
                    part.replace(self.folder / name)
                    self._record(_card(name, called, lora, time.time()))
            finally:
                part.unlink(missing_ok=True)
        return self.card(name)

    def cards(self) -> tuple[LoraCard, ...]:
        """All of them, newest first. A file that is damaged now is left out."""
        found = []
        for path in self.folder.glob("*.safetensors") if self.folder.is_dir() else ():
            try:
                found.append(self.card(path.name))
            except (NotFound, InvalidRequest):
                continue
        return tuple(sorted(found, key=lambda card: (-card.added_at, card.name)))

    def card(self, name: str) -> LoraCard:
        """Raises NotFound; InvalidRequest where the record is lost and the file damaged."""
        path = self.folder / name
        if not LORA_NAME.fullmatch(name) or not path.is_file():
            raise NotFound(f"There is no LoRA {name[:80]!r} in this studio; `sprocket loras list` prints those that are.")
        card = _read_record(path.with_suffix(".json"), name)
        if card is None:
            card = _card(name, "", read_lora(path, f"{name[:12]}..."), path.stat().st_mtime)
            self._record(card)
        return card

    def find(self, text: str) -> LoraCard:
        """By its name, by the first digits of it (8 at least), or by what its file was called. Raises NotFound."""
        matches = [card for card in self.cards()
                   if text in (card.name, card.file) or (len(text) >= 8 and card.name.startswith(text))]
        if len(matches) != 1:
            why = "is in this studio" if not matches else f"is one LoRA: {len(matches)} are called so; use the digits of their names"
            raise NotFound(f"No LoRA {text[:80]!r} {why}. `sprocket loras list` prints them.")
        return matches[0]

    def delete(self, text: str) -> LoraCard:
        """Removes one; clips that were made with it keep naming it. Raises NotFound, NotAllowed (a job that waits or runs has it)."""
        card = self.find(text)
        if card.name in set(self._in_use()):
            raise NotAllowed(f"The LoRA {card.file or card.name[:12]} is used by a job that waits or runs. Cancel it first, or wait.")
        (self.folder / card.name).unlink(missing_ok=True)
        (self.folder / card.name).with_suffix(".json").unlink(missing_ok=True)
        return card

    def used(self, loras: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
        """What a recipe says of the LoRAs of its request, beside their names."""
        told = []
        for name, weight in loras:
            card = self.card(name)
            told.append({"name": name, "weight": weight}
                        | {field: getattr(card, field) for field in ("file", "rank", "alpha", "trigger")})
        return told

    def missing(self, recipe: Mapping[str, Any]) -> list[str]:
        """Of the LoRAs that made a clip those that are not here, as people know them. The recipe is untrusted."""
        request, told = recipe.get("request"), recipe.get("loras")
        named = request.get("loras") if isinstance(request, dict) else None
        files = {each.get("name"): each.get("file") for each in told if isinstance(each, dict)} if isinstance(told, list) else {}
        gone = [pair[0] for pair in named or () if isinstance(pair, list) and pair and isinstance(pair[0], str)
                and not (LORA_NAME.fullmatch(pair[0]) and (self.folder / pair[0]).is_file())]
        return [f"{_shown(str(files[name]))} ({name[:12]}...)" if files.get(name) else f"{name[:12]}..." for name in gone]

    def _record(self, card: LoraCard) -> None:
        text = json.dumps(dataclasses.asdict(card), ensure_ascii=False, indent=1, sort_keys=True)
        write_atomic((self.folder / card.name).with_suffix(".json"), text.encode())


def _card(name: str, called: str, lora: Lora, added_at: float) -> LoraCard:
    return LoraCard(name, called, lora.size, lora.rank, lora.alpha, lora.targets, lora.blocks, lora.width, lora.dtype, lora.trigger,
                    lora.notes, {layer: (each.gives, each.takes) for layer, each in lora.layers.items()}, added_at)


def _read_record(path: Path, name: str) -> LoraCard | None:
    """None where it is lost or damaged; the file itself tells all but what it was called."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        layers = {str(layer): (int(shape[0]), int(shape[1])) for layer, shape in values["layers"].items()}
        texts = {field: str(values[field]) for field in ("file", "dtype", "trigger")}
        width = None if values["width"] is None else int(values["width"])
        return LoraCard(name=name, size=int(values["size"]), rank=int(values["rank"]), alpha=float(values["alpha"]),
                        targets=tuple(map(str, values["targets"])), blocks=int(values["blocks"]), width=width, layers=layers,
                        notes=tuple(map(str, values["notes"])), added_at=float(values["added_at"]), **texts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None


def _shown(name: str) -> str:
    """A file's name as it may stand in a record: one line that any file and page takes."""
    clean = "".join(char for char in name if not unicodedata.category(char).startswith("C"))
    return clean[-MAX_FILE_CHARS:]
