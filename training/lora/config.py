"""Every setting of a LoRA training run: frozen, JSON-able, refused where it makes no sense. Pure.

The text of a run's settings decides, with its data and its base, every bit of the result (same machine, deterministic kernels).
`may_change` says which of them a run that goes on may have otherwise.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from engine.errors import InvalidRequest
from engine.lines import is_shown, one_line
from training.data.buckets import SHAPES

CONFIG_VERSION = 1
POCKET_WORLD = "pocket-world"
"""The dataset that needs no files: the embedded model's own world, to try training with."""
OPTIMIZERS = ("adam", "adamw", "adamw8bit", "prodigy", "adafactor", "came")
SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")
ENDLESS = ("constant", "constant_with_warmup")
"""Schedules that do not look at the number of steps."""
TARGETS = {
    "attention": ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"),
    "attention+ff": ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"),
    "all": ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2", "norm1.linear", "norm2.linear"),
}
METHODS = ("lora", "full", "stage-two")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
BASES = ("same", "int8", "fp8")
MEMORY = ("auto", "keep", "recompute", "offload")
SHARDING = ("no", "fsdp")
STREAMING = ("auto", "no", "ram", "disk")
TRACKERS = ("tensorboard", "wandb", "trackio")
MAX_RANK = 1024
MAX_STEPS = 1_000_000
MAX_LR = 2.0
NAME_CHARS = 60
NAME_BYTES = 200
"""Of UTF-8: a file's name has 255 at most, with its ending and what it is called while it is written."""
DEFAULT_WARMUP = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """What one run does. Every field is checked when it is made; raises `InvalidRequest` naming the field."""

    model: str
    """A name from `sprocket models list`, or a folder."""
    dataset: str
    """Name or folder of the set of clips; 'pocket-world' is the embedded model's own world."""
    name: str
    """What the LoRA is called; its file is <name>.safetensors."""
    shapes: str = "native"
    """Sizes of clips: 'native' brings all to the model's own; 'aspect' each to the nearest of that, the same turned, a square, 4:3 and 3:4
    of its area, where the model allows them. Clips of one size make a batch."""
    method: str = "lora"
    """'lora': a small change beside the frozen base, one file; 'full': every weight of the transformer, a model of its own; 'stage-two':
    what makes frames between frames, beside the frozen base (docs/hierarchy.md)."""
    rank: int = 32
    alpha: float | None = None
    """None: the rank, so that files are right even for programs that ignore alpha."""
    dropout: float = 0.0
    """Of the LoRA's input."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank)  (https://arxiv.org/abs/2312.03732)."""
    dora: bool = False
    """Weight-decomposed LoRA (https://arxiv.org/abs/2402.09353). Create cannot apply it; diffusers can."""
    targets: str = "attention"
    """'attention', 'attention+ff', 'all', or layers by name, separated by commas."""
    steps: int = 1000
    """Updates of the weights."""
    batch: int = 1
    """Clips in one pass."""
    accumulate: int = 1
    """Passes an update sums up, over all GPUs together: the data and noise of a step do not depend on their number."""
    learning_rate: float = 1e-4
    optimizer: str = "adamw"
    beta1: float = 0.9
    beta2: float = 0.95
    beta3: float | None = None
    """Prodigy and CAME only."""
    epsilon: float = 1e-8
    weight_decay: float = 1e-4
    prodigy_decouple: bool = True
    prodigy_bias_correction: bool = True
    prodigy_safeguard_warmup: bool = True
    schedule: str = "constant_with_warmup"
    warmup: int = DEFAULT_WARMUP
    """Steps from 0 to the full learning rate."""
    cycles: float = 1
    """Of cosine_with_restarts."""
    power: float = 1.0
    """Of polynomial."""
    max_grad_norm: float = 1.0
    """0: gradients are not clipped."""
    ema: float = 0.0
    """Decay of a running average of the weights, which is exported then; 0: none."""
    caption_dropout: float = 0.1
    """Share of visits with the encoding of "" for a caption, which is what Create's guidance compares with."""
    image_dropout: float = 0.05
    """Image to video: share of visits without the first frame."""
    image_noise: bool = True
    """Image to video: fresh noise on the first frame's pixels at every visit, exp(N(-3, 0.5)) strong, as CogVideoX's own image models
    were trained, so that the frames after it do not copy every grain of it. It keeps the VAE loaded, for one frame a visit."""
    stratified: bool = True
    """Times are spread evenly over every 8 visits or one step, whichever is more; each is uniform all the same."""
    min_snr: float = 0.0
    """Gamma of min-SNR weights (https://arxiv.org/abs/2303.09556); 0: none, as on v-prediction they nearly remove the noisiest steps."""
    seed: int = 0
    precision: str = "auto"
    """Of the frozen base's arithmetic; the LoRA is float32 whatever it is."""
    base: str = "same"
    """How the frozen base's matrices are stored: 'same' as the arithmetic, 'int8', 'fp8'."""
    memory: str = "auto"
    """What is kept of a block for its gradient: 'keep' all, 'recompute' it from its input, 'offload' that input too; 'auto' by budget."""
    sharding: str = "no"
    """'fsdp': several processes hold a share of the base each (of all weights with method full), and gather a block when it works."""
    processes: int = 0
    """Processes, each with a GPU of its own, that share the work; 0: as many as sequence parallel wants."""
    sequence_parallel: int = 1
    """So many processes divide the tokens of each clip among them, for clips too large or too slow for one GPU; further processes are more
    such teams, which share the passes of a step."""
    streaming: str = "auto"
    """Whether the base's blocks wait in 'ram' or on the 'disk' until they are needed, or 'no': 'auto' where the budget wants it. The bits
    are the same."""
    budget: int = 0
    """Bytes of the device's memory; 0: all that is free."""
    device: str = ""
    """'cpu' or 'cuda'; '' for the GPU where there is one."""
    threads: int = 0
    """Of the processor; 0: as many as it has. Kept for the whole run, as sums may depend on it."""
    save_steps: int = 250
    save_seconds: float = 300.0
    keep: int = 3
    """Checkpoints kept, newest first."""
    eval_steps: int = 50
    """Steps between two looks at the held-out loss; 0: never."""
    eval_clips: int = 8
    preview_steps: int = 0
    """Steps between preview clips, from step 0 on; 0: only when asked for."""
    preview_prompts: tuple[str, ...] = ()
    preview_seed: int = 42
    preview_frames: int = 0
    """0: the model's own."""
    preview_sampling: int = 0
    """Denoising steps of a preview; 0: the model's own."""
    trackers: tuple[str, ...] = ()
    max_bad_steps: int = 5
    """So many steps one after the other without a finite loss end the run."""
    trigger: str = ""
    """The word that calls it up, written into the file."""
    config_version: int = CONFIG_VERSION

    def __post_init__(self) -> None:
        _check_words(self)
        _check_numbers(self)
        _check_together(self)
        object.__setattr__(self, "trackers", tuple(self.trackers))
        object.__setattr__(self, "preview_prompts", tuple(one_line(prompt) for prompt in self.preview_prompts))  # as captions are

    @property
    def effective_alpha(self) -> float:
        return float(self.rank) if self.alpha is None else float(self.alpha)

    @property
    def layers(self) -> tuple[str, ...]:
        """Kinds of layers that are changed, by the end of their names."""
        return TARGETS.get(self.targets) or tuple(part.strip() for part in self.targets.split(",") if part.strip())

    @property
    def ranks(self) -> int:
        """Processes that are started."""
        return self.processes or self.sequence_parallel

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON types only."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"trackers": list(self.trackers), "preview_prompts": list(self.preview_prompts)}


FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}
WORDS = {"int": "whole number", "float": "number", "bool": "yes or no"}
HARMLESS = ("keep", "save_steps", "save_seconds", "preview_steps", "preview_prompts", "preview_seed", "preview_frames", "preview_sampling",
            "trackers", "max_bad_steps", "eval_steps", "name", "budget", "streaming", "sharding",
            "processes", "sequence_parallel")
"""May be otherwise when a run goes on: the weights come out the same."""


def from_mapping(values: Mapping[str, Any]) -> TrainConfig:
    """Of settings by name. Raises `InvalidRequest` for a name that is none, a missing one or a value of the wrong kind."""
    for name in values:
        if name not in FIELDS:
            near = _nearest(str(name))
            raise InvalidRequest(str(name)[:60], f"is no setting of training.{f' Did you mean {near}?' if near else ''} Settings: "
                                                 f"{', '.join(FIELDS)}.")
    for name in ("model", "dataset", "name"):
        if not values.get(name):
            raise InvalidRequest(name, "is missing; a run needs a model, a dataset and a name.")
    return TrainConfig(**{name: _of_kind(name, value) for name, value in values.items()})


@lru_cache(maxsize=1)
def explained() -> dict[str, str]:
    """Setting -> what it does, as it says where it is declared; '' where its name says all."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainConfig")
    found = dict.fromkeys(FIELDS, "")
    for declared, doc in pairwise(body):
        if isinstance(declared, ast.AnnAssign) and isinstance(declared.target, ast.Name) and isinstance(doc, ast.Expr):
            found[declared.target.id] = " ".join(str(ast.literal_eval(doc.value)).split())
    return found


def may_change(before: TrainConfig, after: TrainConfig) -> None:
    """Raises `InvalidRequest` where going on with `after` would be another training than `before` was."""
    for name in FIELDS:
        if name in HARMLESS or getattr(before, name) == getattr(after, name):
            continue
        if name == "steps" and before.schedule in ENDLESS:
            continue
        why = "it is part of the learning rate's schedule" if name == "steps" else "the weights would not be those of one run"
        raise InvalidRequest(name, f"was {getattr(before, name)!r} and cannot become {getattr(after, name)!r} in a run that goes on: {why}."
                                   " Begin a new run (Clone copies the settings).", suggestion=getattr(before, name))


def _nearest(name: str) -> str | None:
    import difflib

    found = difflib.get_close_matches(name.replace("-", "_"), FIELDS, 1, 0.6)
    return found[0] if found else None


def _of_kind(name: str, value: Any) -> Any:
    """`value` as the field's type; numbers may come as text."""
    kind = str(FIELDS[name].type)
    try:
        if kind.startswith("tuple"):
            return tuple(str(part) for part in ([value] if isinstance(value, str) else value))
        if value is None:
            if "None" in kind:
                return None
            raise ValueError("nothing")
        if kind == "bool":
            if isinstance(value, bool):
                return value
            return {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}[str(value).lower()]
        if kind == "int":
            return _whole(value)
        return float(value) if kind.startswith("float") else str(value)
    except (TypeError, ValueError, KeyError, OverflowError):
        raise InvalidRequest(name, f"is {str(value)[:40]!r}, which is no {WORDS.get(kind.split(maxsplit=1)[0], kind)}.") from None


def _whole(value: Any) -> int:
    """Raises ValueError, TypeError, OverflowError."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # "1e3", which float reads
            return int(value)  # float would round what has more than 15 digits
    if isinstance(value, bool) or float(value) != int(float(value)):
        raise ValueError("not whole")
    return value if isinstance(value, int) else int(float(value))


def is_file_name(text: str) -> bool:
    """Whether files can be called so, and every page can show it."""
    return (bool(text.strip()) and len(text) <= NAME_CHARS and is_shown(text) and len(text.encode()) <= NAME_BYTES
            and not any(c in text for c in '/\\:*?"<>|') and text[0] != ".")


def _check_words(config: TrainConfig) -> None:
    for name, known in (("shapes", SHAPES), ("method", METHODS), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES),
                        ("precision", PRECISIONS), ("base", BASES),
                        ("memory", MEMORY), ("streaming", STREAMING), ("sharding", SHARDING), ("device", ("", "cpu", "cuda"))):
        value = getattr(config, name)
        if value not in known:
            raise InvalidRequest(name, f"is {str(value)[:40]!r}. Use one of {', '.join(filter(None, known))}.", suggestion=known[0])
    for tracker in config.trackers:
        if tracker not in TRACKERS:
            raise InvalidRequest("trackers", f"has {tracker[:40]!r}. Use some of {', '.join(TRACKERS)}.")
    if not is_file_name(config.name):
        raise InvalidRequest("name", f"is {config.name[:80]!r}; 1 to {NAME_CHARS} characters ({NAME_BYTES} bytes) that can be shown and "
                                     "that a file's name takes, not starting with a dot.")
    from engine.lora.file import MAX_TRIGGER_CHARS
    from engine.lora.names import is_layer

    if len(config.trigger) > MAX_TRIGGER_CHARS or not is_shown(config.trigger):
        raise InvalidRequest("trigger", f"is {config.trigger[:80]!r}; at most {MAX_TRIGGER_CHARS} characters that can be shown, on one "
                                        "line. One rare word does it.")
    known_layers = [f"transformer_blocks.0.{layer}" for layer in config.layers]
    if not config.layers or not all(is_layer(layer) for layer in known_layers):
        raise InvalidRequest("targets", f"is {config.targets[:80]!r}. Use attention, attention+ff, all, or names of layers such as "
                                        "attn1.to_q,ff.net.2.", suggestion="attention")


RANGES: dict[str, tuple[float, float]] = {
    "rank": (1, MAX_RANK), "steps": (1, MAX_STEPS), "batch": (1, 64), "accumulate": (1, 1024), "dropout": (0, 0.9), "beta1": (0, 0.9999),
    "beta2": (0, 0.999999), "weight_decay": (0, 1), "warmup": (0, MAX_STEPS), "cycles": (0.5, 1000), "power": (0.1, 10),
    "max_grad_norm": (0, 1000), "ema": (0, 0.99999), "caption_dropout": (0, 1), "image_dropout": (0, 1), "min_snr": (0, 1000),
    "seed": (0, 2**63 - 1), "threads": (0, 1024), "save_steps": (1, MAX_STEPS), "save_seconds": (1, 86400), "keep": (1, 100),
    "eval_steps": (0, MAX_STEPS), "eval_clips": (1, 64), "preview_steps": (0, MAX_STEPS), "preview_seed": (0, 2**63 - 1),
    "preview_frames": (0, 1000), "preview_sampling": (0, 1000), "max_bad_steps": (1, 1000), "budget": (0, 2**50), "epsilon": (1e-30, 1),
    "processes": (0, 1024), "sequence_parallel": (1, 64),
}


def _check_numbers(config: TrainConfig) -> None:
    for name, (least, most) in RANGES.items():
        value = getattr(config, name)
        if not math.isfinite(value) or not least <= value <= most:
            raise InvalidRequest(name, f"is {value:g}; allowed is {least:g} to {most:g}.", suggestion=min(max(least, value), most)
                                 if math.isfinite(value) else least)
    rate = config.learning_rate
    if not math.isfinite(rate) or not 0 < rate <= MAX_LR:
        raise InvalidRequest("learning_rate", f"is {rate:g}; it must be above 0 and at most {MAX_LR:g}. Good values are 1e-4 to 1e-3, "
                                              "and 1 for prodigy.", suggestion=1e-4)
    if config.optimizer not in ("prodigy",) and rate > 0.1:
        raise InvalidRequest("learning_rate", f"is {rate:g}; above 0.1 only prodigy works, which finds its own. Good values are 1e-4 to "
                                              "1e-3.", suggestion=1e-3)
    alpha = config.effective_alpha
    if not math.isfinite(alpha) or not 0 < alpha <= 1e6:
        raise InvalidRequest("alpha", f"is {alpha:g}; it must be above 0. The rank, or half of it, is usual.", suggestion=config.rank)
    if config.warmup > max(config.steps, DEFAULT_WARMUP):
        raise InvalidRequest("warmup", f"is {config.warmup} steps of {config.steps}; the full learning rate would never be reached.",
                             suggestion=config.steps // 10)


def _check_together(config: TrainConfig) -> None:
    """Settings that are right by themselves and do not go together."""
    if config.method == "full":
        _check_full(config)
    if config.method == "stage-two":
        _check_stage_two(config)
    if config.streaming in ("ram", "disk") and config.memory == "keep":
        raise InvalidRequest("streaming", f"is {config.streaming}, and memory keep would keep every block's weights on the device. Use "
                                          "memory recompute or auto.", suggestion="auto")
    if config.sharding == "fsdp" and config.streaming in ("ram", "disk"):
        raise InvalidRequest("sharding", f"is fsdp, and streaming is {config.streaming}; weights are shared out or they wait elsewhere. "
                                         "Use one of the two.", suggestion="no")
    if config.sharding == "fsdp" and config.method == "full" and config.optimizer not in ("adam", "adamw"):
        raise InvalidRequest("optimizer", f"is {config.optimizer}, whose state cannot be shared out with all weights. Use adamw, or "
                                          "sharding no.", suggestion="adamw")
    if config.dora and config.streaming in ("ram", "disk"):
        raise InvalidRequest("dora", f"needs the base's own numbers at once, and streaming is {config.streaming}. Use streaming no, or no "
                                     "dora.")
    if config.dora and config.base != "same":
        raise InvalidRequest("dora", "needs the base's own numbers, and a base in 8 bits has none. Use base same, or no dora.")


def _check_full(config: TrainConfig) -> None:
    """Raises `InvalidRequest` for what is only there beside a frozen base."""
    for name, none in (("base", "same"), ("dropout", 0.0), ("dora", False), ("rslora", False)):
        if getattr(config, name) != none:
            raise InvalidRequest(name, f"is {getattr(config, name)!r}, which is a matter of a LoRA and its frozen base; method full "
                                       "changes every weight. Leave it out, or use method lora.", suggestion=none)
    if config.streaming in ("ram", "disk"):
        raise InvalidRequest("streaming", f"is {config.streaming}; weights that are trained cannot wait elsewhere. Use streaming no, or "
                                          "method lora.", suggestion="no")
    if config.precision == "fp16":
        raise InvalidRequest("precision", "is fp16, in which gradients of a whole model overflow. Use bf16 or fp32 with method full.",
                             suggestion="bf16")


def _check_stage_two(config: TrainConfig) -> None:
    """Raises `InvalidRequest` for what stage two has not."""
    for name, none in (("dropout", 0.0), ("dora", False), ("rslora", False), ("sharding", "no"), ("min_snr", 0.0), ("alpha", None)):
        if getattr(config, name) != none:
            raise InvalidRequest(name, f"is {getattr(config, name)!r}, which method stage-two has not. Leave it out.", suggestion=none)
