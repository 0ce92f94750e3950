"""What the user asked for: one frozen, JSON-able value.

A `GenerationRequest` checks only what holds for every model (types, finiteness, hard limits). What depends on a
checkpoint (frame rule, size rule, prompt tokens) is checked by `engine.plan.plan`. `None` means "the model's own
default"; the plan has no `None` left. Same resolved request + same machine = same pixels.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequest
from engine.parallel.degrees import parse_degrees

SCHEMA_VERSION = 1
MAX_PROMPT_CHARS = 2000
MAX_STEPS = 200
MAX_GUIDANCE = 30.0
MAX_SIDE = 4096
MAX_FRAMES = 1025
MAX_LONG_FRAMES = 16_385
"""Of a clip made from key frames."""
MAX_SEED = 2**63 - 1
SCHEDULERS = ("dpm", "ddim")
FITS = ("crop", "pad")
GUIDANCE_KINDS = ("constant", "cosine", "as-published")
MAX_KEY_FRAMES = 257
MIN_FPS, MAX_FPS = 1.0, 60.0
MAX_GIVEN = 64
MAX_LORAS = 8
MAX_LORA_WEIGHT = 4.0
LORA_NAME = re.compile(r"[0-9a-f]{64}\.safetensors")
"""A LoRA by what is in it, as an input is."""
PROFILES = ("fast", "balanced", "tiny")
QUALITIES = ("lossless", "near-lossless", "fast")
DEVICES = ("cuda", "cpu")
PRECISIONS = ("auto", "bf16", "fp16", "fp32", "int8", "int8-dynamic", "fp8", "fp8-dynamic")
REFUSED_PRECISIONS = {"int4": "numbers of CogVideoX overflow in it, as its model card says"}
"""Precisions that are asked for and not offered, and why."""
MIN_BUDGET, MAX_BUDGET = 256 * 2**20, 16 * 2**40
CACHES = ("off", "first-block", "pab", "magcache", "taylorseer")
REFINERS = ("pocket", "endpoint", "local")
"""What may have written a prompt out of the user's words, see `engine.refine`."""
INPUT_NAME = re.compile(r"[0-9a-f]{64}\.[a-z0-9]{2,5}")
"""An image or a video by what is in it: its sha256 and its kind. No path, so nothing else can be named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """One wish for one clip.

    Raises `InvalidRequest` on construction; text is normalised to NFC, outer white space is removed.
    """

    prompt: str
    """What to show, 1 to 2,000 characters. Required."""
    negative: str = ""
    """What to steer away from, 0 to 2,000 characters."""
    model: str = "pocket"
    """A name from the catalogue, or a local folder in diffusers layout."""
    seed: int | None = None
    """0 to 2^63 - 1. None: drawn once, when the job is submitted."""
    frames: int | None = None
    """Video frames; each model has a rule (8k + 1 for CogVideoX 1.0). None: the model's native count."""
    width: int | None = None
    """Pixels, 16 to 4,096. None: the model's native width."""
    height: int | None = None
    """Pixels, 16 to 4,096. None: the model's native height."""
    steps: int | None = None
    """Denoising steps, 1 to 200. None: the model's recommendation."""
    guidance: float | None = None
    """Classifier-free guidance scale, 0 to 30; 1 or less turns guidance off. None: the model's recommendation."""
    scheduler: str | None = None
    """'dpm' or 'ddim'. None: the checkpoint's own."""
    image: str | None = None
    """Image to video: the first frame, as the name of an input (`<sha256>.<ext>`)."""
    video: str | None = None
    """Video to video: the clip to start from, as the name of an input."""
    fit: str | None = None
    """How an image or video of another shape is fitted: 'crop' or 'pad'; it is never stretched. None: 'crop'."""
    strength: float | None = None
    """Video to video: above 0 (hardly a change) to 1 (only the size is kept). None: 0.8."""
    guidance_kind: str | None = None
    """'constant', 'cosine' or 'as-published', see `engine.guidance`. None: 'constant'."""
    eta: float | None = None
    """Fresh noise of a ddim step, 0 (none) to 1 (as much as DDPM). None: 0."""
    loras: tuple[tuple[str, float], ...] = ()
    """LoRAs of the transformer, at most 8: (`<sha256>.safetensors`, weight); weights -4 to 4, 1 is the strength it was trained at."""
    profile: str | None = None
    """'fast', 'balanced' or 'tiny', see `engine.choices`. None: 'fast'."""
    quality: str | None = None
    """What may be lost to save memory or time: 'lossless', 'near-lossless' or 'fast'. None: the best that fits."""
    precision: str | None = None
    """Of the transformer: 'auto', 'bf16', 'fp16', 'fp32', 'int8', 'int8-dynamic', 'fp8' or 'fp8-dynamic', see `engine.precision`.
    None: 'auto', the planner's choice."""
    budget: int | None = None
    """Bytes of the device's memory the job may use, 256 MiB to 16 TiB. None: all that is free."""
    device: str | None = None
    """'cuda' or 'cpu'. None: the GPU where there is one."""
    cache: str | None = None
    """Which work of a step is taken from the steps before: 'off', 'first-block', 'pab', 'magcache' or 'taylorseer', see
    `engine.cache`. All but 'off' change the picture. None: 'off'."""
    cfg_gate: float | None = None
    """Share of the steps, above 0 to 1, after which the negative prompt's half is no longer run. None: 1, never."""
    parallel: str | None = None
    """Several devices for this one clip, 'cfg=2,ulysses=2,ring=1', see `engine.parallel.degrees`. None: one device."""
    key_frames: int | None = None
    """Hierarchical generation (docs/hierarchy.md): so many key frames over the whole action, 2 to 257; then rounds that double their
    rate make `frames`. None: as few as `fps` allows, where one of `fps`, `given` asks for it."""
    fps: float | None = None
    """Hierarchical generation: frames a second of the finished clip, 1 to 60. None: the model's own."""
    given: tuple[tuple[int, str], ...] = ()
    """Hierarchical generation: (frame number, name of an input): images that stand in the clip as they are, at most 64."""
    edits: tuple[tuple[int, int | str], ...] = ()
    """Hierarchical generation: what was changed about key frames before the rounds: (frame number, a seed to make it anew with, or
    the name of an input that takes its place)."""
    review: bool = False
    """Hierarchical generation: the job waits after its key frames until its owner goes on."""
    wish: str | None = None
    """The user's own words, where `prompt` was made out of them by a refiner. Kept beside the clip; the model never sees it."""
    refiner: str | None = None
    """What made `prompt` out of `wish`: 'pocket', 'endpoint' or 'local'."""
    schema_version: int = field(default=SCHEMA_VERSION)

    def __post_init__(self) -> None:
        set_field = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (frozen: the one way in)
        set_field("prompt", _text("prompt", self.prompt))
        set_field("negative", _text("negative", self.negative))
        if not self.prompt:
            raise InvalidRequest("prompt", "is empty. Describe what the video should show, for example "
                                           "'a red ball bounces over a meadow'.")
        set_field("model", _text("model", self.model))
        if not self.model:
            raise InvalidRequest("model", "is empty. Choose one that `sprocket models list` prints; 'pocket' ships with Sprocket.")
        _whole("seed", self.seed, 0, MAX_SEED, "2^63 - 1")
        _whole("frames", self.frames, 1, MAX_LONG_FRAMES if self.hierarchical else MAX_FRAMES)
        _whole("width", self.width, 16, MAX_SIDE)
        _whole("height", self.height, 16, MAX_SIDE)
        _whole("steps", self.steps, 1, MAX_STEPS)
        set_field("guidance", real("guidance", self.guidance, 0.0, MAX_GUIDANCE))
        _one_of("scheduler", self.scheduler, SCHEDULERS)
        for name in ("image", "video"):
            _input(name, getattr(self, name))
        self._check_input()
        _one_of("fit", self.fit, FITS)
        _one_of("guidance_kind", self.guidance_kind, GUIDANCE_KINDS)
        set_field("strength", real("strength", self.strength, 0.0, 1.0))
        if self.strength == 0.0:
            raise InvalidRequest("strength", "is 0, which would leave the video as it is. Use more than 0, up to 1.")
        set_field("eta", real("eta", self.eta, 0.0, 1.0))
        set_field("loras", _loras(self.loras))
        _one_of("profile", self.profile, PROFILES)
        _one_of("quality", self.quality, QUALITIES)
        _one_of("precision", self.precision, PRECISIONS, REFUSED_PRECISIONS)
        _whole("budget", self.budget, MIN_BUDGET, MAX_BUDGET, f"{MAX_BUDGET} bytes (256 MiB to 16 TiB)")
        _one_of("device", self.device, DEVICES)
        _one_of("cache", self.cache, CACHES)
        set_field("cfg_gate", real("cfg_gate", self.cfg_gate, 0.0, 1.0))
        if self.cfg_gate == 0.0:
            raise InvalidRequest("cfg_gate", "is 0, which would leave guidance no step to look at. Use more than 0, up to 1.")
        self._check_hierarchy(set_field)
        if self.wish is not None:
            set_field("wish", _text("wish", self.wish))
        _one_of("refiner", self.refiner, REFINERS)
        if (self.wish is None) != (self.refiner is None):
            raise InvalidRequest("refiner", "and wish belong together: the words a prompt was made from, and what made it. Give both, or "
                                            "neither.")
        if self.parallel is not None:
            set_field("parallel", str(parse_degrees(self.parallel)))
            if self.hierarchical:
                raise InvalidRequest("parallel", "divides one clip over several devices; key frames and the rounds between them run on "
                                                 "one. Leave out parallel, or key_frames, fps and given.")
        if self.schema_version != SCHEMA_VERSION:
            raise InvalidRequest("schema_version", f"{shown(self.schema_version)} was written by another version of Sprocket; "
                                                   f"this one reads {SCHEMA_VERSION}.")

    def _check_input(self) -> None:
        """Settings that would have no effect are refused, not ignored."""
        if self.image is not None and self.video is not None:
            raise InvalidRequest("video", "and image are both given. A clip starts from one of them; leave one out.")
        if self.strength is not None and self.video is None:
            raise InvalidRequest("strength", "says how far a video may be changed, and there is none. Give a video, or "
                                             "leave strength out.")
        if self.fit is not None and self.mode == "t2v" and not self.given and not self.edits:
            raise InvalidRequest("fit", "says how an image or a video is fitted, and there is none. Give one, or leave fit out.")

    def _check_hierarchy(self, set_field: Callable[[str, Any], None]) -> None:
        _whole("key_frames", self.key_frames, 2, MAX_KEY_FRAMES)
        set_field("fps", real("fps", self.fps, MIN_FPS, MAX_FPS))
        set_field("given", known_frames("given", self.given))
        set_field("edits", known_frames("edits", self.edits, seeds=True))
        if not isinstance(self.review, bool):
            raise InvalidRequest("review", f"must be true or false, not {shown(self.review)}.")
        if not self.hierarchical:
            for name in ("edits", "review"):
                if getattr(self, name):
                    raise InvalidRequest(name, "is about key frames, and none are asked for. Give key_frames, or leave it out.")
        elif self.video is not None:
            raise InvalidRequest("video", "is given, and so are key frames. A clip is made from key frames or from a video; leave one out.")
        elif self.image is not None and self.given and self.given[0][0] == 0:
            raise InvalidRequest("given", "names frame 0, and image is the first frame too. Leave one out.")

    @property
    def hierarchical(self) -> bool:
        """True where key frames are made first, then frames between them."""
        return self.key_frames is not None or self.fps is not None or bool(self.given)

    @property
    def mode(self) -> str:
        """'t2v' (words alone), 'i2v' (a first frame) or 'v2v' (a whole video)."""
        return "i2v" if self.image is not None else "v2v" if self.video is not None else "t2v"

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON types only. `from_mapping(to_json())` is the identity."""
        return dataclasses.asdict(self) | {name: [list(pair) for pair in getattr(self, name)] for name in ("loras", "given", "edits")}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> GenerationRequest:
        """A request out of untrusted values (raw API, a recipe in a dropped file).

        Raises `InvalidRequest` for an unknown field, a wrong type or a value out of range. Nothing is coerced:
        "25" is not 25, True is not 1.
        """
        check_names(cls, values, "a request field")
        if "prompt" not in values:
            raise InvalidRequest("prompt", "is missing. A prompt alone is enough for a request.")
        return cls(**values)


def check_names(cls: type, values: object, what: str) -> None:
    """Raises `InvalidRequest` unless `values` is a mapping that names fields of the dataclass `cls` only. `what`: one of them, in words."""
    if not isinstance(values, Mapping):
        raise InvalidRequest("request", f"must be an object of named fields, not {type(values).__name__}.")
    known = {f.name for f in dataclasses.fields(cls)}
    for name in values:
        if name not in known:
            raise InvalidRequest(shown(name), f"is not {what}. Known fields: {', '.join(sorted(known))}.")


def shown(value: object, limit: int = 60) -> str:
    """A value as it may stand in a message: quoted, short, never multi-line."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(name, f"must be text, not {type(value).__name__} ({shown(value)}).")
    if len(value) > MAX_PROMPT_CHARS:
        raise InvalidRequest(name, f"has {len(value):,} characters; the limit is {MAX_PROMPT_CHARS:,}. Shorten it.")
    for position, char in enumerate(value):
        category = unicodedata.category(char)
        if category == "Cs":
            raise InvalidRequest(name, f"holds half of a character (a lone surrogate, U+{ord(char):04X}) at position "
                                       f"{position}, which no file can store. Type that character again.")
        if category == "Cc" and char not in "\n\r\t":
            raise InvalidRequest(name, f"holds a control character (U+{ord(char):04X}) at position {position}. Remove it.")
    return unicodedata.normalize("NFC", value).strip()


def _one_of(name: str, value: object, known: tuple[str, ...], refused: Mapping[str, str] = {}) -> None:
    if isinstance(value, str) and value in refused:
        raise InvalidRequest(name, f"{value} is not offered: {refused[value]}. Use one of {', '.join(known)}, or leave it out.")
    if value is not None and value not in known:
        raise InvalidRequest(name, f"{shown(value)} is not known. Use one of {', '.join(known)}, or leave it out.")


def _input(name: str, value: object) -> None:
    if value is not None and not (isinstance(value, str) and INPUT_NAME.fullmatch(value)):
        raise InvalidRequest(name, f"must be the name of an input of this studio, 64 hex digits and its kind, not {shown(value)}. "
                                   "Add the file first; adding it gives the name.")


def _loras(value: object) -> tuple[tuple[str, float], ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or len(value) > MAX_LORAS:
        many = f"{len(value)} of them" if isinstance(value, (list, tuple)) else shown(value)
        raise InvalidRequest("loras", f"must be a list of at most {MAX_LORAS} [name, weight], not {many}.")
    stack: dict[str, float] = {}
    for pair in value:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise InvalidRequest("loras", f"holds {shown(pair)}; each must be a pair [name, weight].")
        name, weight = pair
        if not (isinstance(name, str) and LORA_NAME.fullmatch(name)):
            raise InvalidRequest("loras", f"must name LoRAs of this studio, 64 hex digits and .safetensors, not {shown(name)}. Add the "
                                          "file first (`sprocket loras add FILE`); adding it gives the name.")
        if name in stack:
            raise InvalidRequest("loras", f"names {name[:12]}... twice. Give it once, with the sum of the weights.")
        stack[name] = _number("loras", weight, -MAX_LORA_WEIGHT, MAX_LORA_WEIGHT, f"the weight of {name[:12]}... ")
    return tuple(stack.items())


def known_frames(name: str, value: object, *, seeds: bool = False) -> tuple[tuple[int, Any], ...]:
    """Pairs (frame number, name of an input), ascending; with `seeds` the second may be a seed. Raises `InvalidRequest`."""
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)) or len(value) > MAX_GIVEN:
        many = f"{len(value)} of them" if isinstance(value, (list, tuple)) else shown(value)
        raise InvalidRequest(name, f"must be a list of at most {MAX_GIVEN} [frame number, input], not {many}.")
    found: dict[int, int | str] = {}
    for pair in value:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise InvalidRequest(name, f"holds {shown(pair)}; each must be a pair [frame number, input].")
        index, what = pair
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < MAX_LONG_FRAMES:
            raise InvalidRequest(name, f"names frame {shown(index)}; frames are numbered from 0, whole numbers below {MAX_LONG_FRAMES:,}.")
        if index in found:
            raise InvalidRequest(name, f"names frame {index} twice. One frame is one picture; leave one out.")
        if seeds and isinstance(what, int) and not isinstance(what, bool):
            _whole(name, what, 0, MAX_SEED, "2^63 - 1")
        else:
            _input(name, what if what is not None else "")
        found[index] = what
    return tuple(sorted(found.items()))


def _whole(name: str, value: object, low: int, high: int, high_shown: str = "") -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(name, f"must be a whole number, not {shown(value)}. Use {low} to {high_shown or format(high, ',')}.")
    if not low <= value <= high:
        raise InvalidRequest(name, f"is {shown(value)}; allowed is {low} to {high_shown or format(high, ',')}.",
                             suggestion=min(max(value, low), high))


def real(name: str, value: object, low: float, high: float, usual: float | None = None) -> float | None:
    """None, or a number of `low` to `high`. `usual`: suggested for what is none or too little; the most is for too much."""
    return None if value is None else _number(name, value, low, high, usual=usual)


def _number(name: str, value: object, low: float, high: float, what: str = "", usual: float | None = None) -> float:
    """`what`: which number of the field, where it holds several."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidRequest(name, f"{what}must be a number, not {shown(value)}. Use {low:g} to {high:g}.", suggestion=usual)
    if not low <= value <= high:  # NaN is not, and a whole number too large for a float can be compared with one
        raise InvalidRequest(name, f"{what}is {shown(value)}; allowed is {low:g} to {high:g}.",
                             suggestion=None if usual is None else high if value > high else usual)
    return float(value)
