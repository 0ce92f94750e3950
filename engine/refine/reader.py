"""The pocket refiner's reader in numpy: a wish -> what it says, and which of its words the pocket's world has not.

The forward pass of `training.refiner.model` without torch: the web process runs it in a few milliseconds on one core. Weights
are 16-bit in the file and 32-bit at work.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import ModelInvalid, ModelNotFound
from engine.refine.words import MAX_WORDS, pieces, words_of

FORMAT, VERSION = "sprocket-pocket-refiner", 1
NONE = "none"
Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Facts:
    """What a wish says; '' where it says nothing."""

    shape: str = ""
    colour: str = ""
    second_shape: str = ""
    second_colour: str = ""
    background: str = ""
    motion: str = ""
    pace: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """facts: of the wish. outside: its words, as `words_of` gives them, that name what the world has not. unread: words too many."""

    facts: Facts
    outside: tuple[str, ...]
    unread: int = 0


@dataclass(frozen=True)
class Reader:
    """Weights by name, fp32, and the questions with their possible answers."""

    weights: dict[str, Array]
    questions: tuple[tuple[str, tuple[str, ...]], ...]
    buckets: int
    heads: int
    layers: int

    def read(self, text: str) -> Reading:
        """What `text` says. Pure."""
        words = words_of(text)
        shown = words[:MAX_WORDS]
        if not shown:
            return Reading(Facts(), ())
        answers, outside = self.logits(shown)
        said = {name.replace(" ", "_"): options[int(part.argmax())] for (name, options), part in zip(self.questions, answers, strict=True)}
        facts = Facts(**{name: "" if value == NONE else value for name, value in said.items()})
        strange = tuple(word for word, logit in zip(shown, outside, strict=True) if logit > 0 and word[0].isalnum())
        return Reading(facts, strange, len(words) - len(shown))

    def logits(self, words: list[str]) -> tuple[list[Array], Array]:
        """(one row of logits a question, one logit a word) of at most MAX_WORDS words."""
        w = self.weights
        x = w["place"][: len(words)] + np.stack([w["embed.weight"][list(pieces(word, self.buckets))].mean(0) for word in words])
        for number in range(self.layers):
            x = self._layer(x, f"layers.{number}.")
        x = _norm(x, w["norm.weight"], w["norm.bias"])
        weights = _softmax((x @ w["key.weight"].T + w["key.bias"]) @ w["query"].T / np.sqrt(x.shape[-1]), axis=0)
        pooled = weights.T @ (x @ w["value.weight"].T + w["value.bias"])
        answers, begin = [], 0
        for number, (_, options) in enumerate(self.questions):
            end = begin + len(options)
            answers.append(w["answer.weight"][begin:end] @ pooled[number] + w["answer.bias"][begin:end])
            begin = end
        return answers, (x @ w["outside.weight"].T + w["outside.bias"])[:, 0]

    def _layer(self, x: Array, at: str) -> Array:
        w, (length, width) = self.weights, x.shape
        linear = lambda y, name: y @ w[f"{at}{name}.weight"].T + w[f"{at}{name}.bias"]  # noqa: E731
        normed = _norm(x, w[f"{at}norm1.weight"], w[f"{at}norm1.bias"])
        q, k, v = linear(normed, "qkv").reshape(length, 3, self.heads, -1).transpose(1, 2, 0, 3)
        mixed = _softmax(q @ k.transpose(0, 2, 1) / np.sqrt(width // self.heads), axis=-1) @ v
        x = x + linear(mixed.transpose(1, 0, 2).reshape(length, width), "out")
        up = linear(_norm(x, w[f"{at}norm2.weight"], w[f"{at}norm2.bias"]), "up")
        gelu = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
        return x + linear(gelu, "down")


def _norm(x: Array, weight: Array, bias: Array) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def _softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def load_reader(folder: Path) -> Reader:
    """The reader in `folder`, kept for the next call. Raises ModelNotFound, ModelInvalid."""
    file = folder / "model.safetensors"
    if not file.is_file():
        raise ModelNotFound(f"There is no pocket refiner in {folder.name}: model.safetensors is missing. It ships with Sprocket; "
                            "`make pocket` makes it again.")
    return _load(folder, file.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _load(folder: Path, _changed: int) -> Reader:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if (config.get("format"), config.get("version")) != (FORMAT, VERSION):
            raise ValueError(f"format {config.get('format')!r} {config.get('version')!r}, not {FORMAT!r} {VERSION}")
        weights = {name: value.astype(np.float32) for name, value in load_file(folder / "model.safetensors").items()}
        questions = tuple((name, tuple(options)) for name, options in config["questions"])
        return Reader(weights, questions, int(config["buckets"]), int(config["heads"]), int(config["layers"]))
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise ModelInvalid(f"The pocket refiner in {folder.name} cannot be read ({str(error)[:120]}). `make pocket` makes it "
                           "again.") from error
