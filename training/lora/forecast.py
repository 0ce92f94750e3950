"""What a run costs, before it begins: memory by part, the least that must be recomputed, and time. Pure.

A map is one number for every token at the full width, in the arithmetic's precision. Kept for the gradient of one block: `KEPT_MAPS`,
counted from the tensors autograd saves (`tests/training/test_lora_forecast.py` counts them again); in 16 bits the LoRA's inputs are
there in float32 too. Recomputed: the two streams a block starts from, one map; and of the one block at work all of it.
    weights + LoRA (weight, gradient, optimizer: `LORA_NUMBERS` float32) + blocks + one block's backward
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engine.errors import CannotFit
from engine.hardware import Hardware
from engine.lora import model_layers
from engine.memory.encoder import encode_frames_bytes
from engine.memory.peak import CONTEXT_BYTES
from engine.memory.placement import NUMBER_BYTES, Home, everywhere
from engine.memory.shapes import Shape, latent_frames, tokens
from engine.memory.weights import WAITING_BLOCKS, layout, slot_bytes, working_bytes
from engine.spec import ModelSpec
from training.data.buckets import WHOLE_PIXELS, rules_of
from training.lora.config import TARGETS, TrainConfig
from training.lora.processes import check_division
from training.lora.windows import SLOTS

Size = tuple[int, int, int]
KEPT_MAPS = {"attention": (21.0, 14.7), "attention+ff": (31.2, 19.8), "all": (35.2, 23.8), "full": (24.1, 23.9)}
"""By targets: in 16 bits, in float32. Others count as 'all'; 'full' is of a model that is trained as a whole."""
LORA_NUMBERS: Mapping[str, float] = {"adam": 4, "adamw": 4, "adamw8bit": 2.6, "prodigy": 6, "adafactor": 2.3, "came": 3.5}
"""Numbers of 4 bytes held for each trained number: itself, its gradient, what the optimizer keeps."""
EXCHANGED_MAPS, WHOLE_MAPS = 9, 3
"""Sequence parallel: maps of its own tokens that a process holds while it exchanges queries, keys and values; and maps of all tokens,
where they are cut into parts."""
SHARE = 0.92
"""Of the free memory that is planned with: the rest is for what the allocator cannot use."""
SPEED = {"cpu": 1.5e10, "cuda": 2.5e14}
"""Arithmetic a second that is assumed where this machine has not trained yet: of a core, of a large GPU."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A way to train in the memory there is."""

    policy: tuple[str, ...]
    """'keep', 'recompute' or 'offload' for each block."""
    bytes: int
    parts: Mapping[str, int]
    """Where they go: weights, lora, blocks, work; vae (of first frames) and captions where encoding takes more than a step."""
    flops: float
    """Of one update, by each process."""
    streamed: str = ""
    """Where the base's blocks wait: 'ram', 'disk', or '' for on the device."""
    text: str = ""
    """Where the text encoder's blocks wait while it encodes beside the base: 'disk', or '' for whole on the device."""

    @property
    def words(self) -> str:
        counts = {word: self.policy.count(word) for word in ("keep", "recompute", "offload") if word in self.policy}
        said = {"keep": "kept whole", "recompute": "recomputed", "offload": "recomputed from the computer's memory"}
        words = ", ".join(f"{count} blocks {said[word]}" for word, count in counts.items())
        where = {"ram": "the computer's memory", "disk": "their files"}.get(self.streamed)
        return f"{words}; the base's blocks come from {where} as they are needed" if where else words


def choose_memory(spec: ModelSpec, config: TrainConfig, machine: Hardware, bucket: Size | None = None, *, ranks: int = 0) -> Choice:
    """The fastest way that fits. `bucket`: (frames, height, width), the model's own unless said. `ranks`: processes, as many as the
    settings want unless said, which may share the weights out and the tokens of a clip.

    Raises `CannotFit` where not even the least fits, with what would, and `InvalidRequest` where so many cannot share the run.
    """
    ranks = ranks or config.ranks
    check_division(config, spec, ranks)
    bucket = bucket or largest_bucket(spec, config)
    free = machine.free_bytes // (ranks if machine.device == "cpu" else 1)  # processes on a processor share its memory
    limit = int(min(free, config.budget or free) * SHARE)
    wanted = {"keep": ("keep",), "recompute": ("recompute",), "offload": ("offload",)}.get(config.memory, ("keep", "recompute", "offload"))
    tried = []
    for policy, streamed in _ways(spec, config, machine, wanted):
        choice = cost(spec, config, machine, policy, bucket, streamed, ranks)
        if choice.bytes <= limit:
            whole = cost(spec, config, machine, policy, bucket, streamed, ranks, text="")
            return whole if whole.bytes <= limit else choice
        tried.append(choice)
    least = min(tried, key=lambda one: one.bytes)
    ways = [word for word, useful in (("method lora", config.method == "full"),
                                      ("base int8", config.base == "same" and config.method != "full"),
                                      ("memory auto", config.memory not in ("auto", "offload")),
                                      ("streaming auto", config.streaming == "no" and not config.dora),
                                      ("a smaller batch", config.batch > 1), ("fewer frames or smaller clips", True),
                                      ("sequence_parallel over several GPUs", machine.device != "cpu" and config.sequence_parallel == 1),
                                      ("optimizer adamw8bit", config.optimizer in ("adam", "adamw", "prodigy"))) if useful]
    raise CannotFit(f"training {spec.name} like this needs {least.bytes / 2**30:.1f} GiB, and {limit / 2**30:.1f} GiB can be used. "
                    f"What helps: {', '.join(ways)}.")


def largest_bucket(spec: ModelSpec, config: TrainConfig) -> Size:
    """(frames, height, width) of the largest clips that a run can have."""
    sizes = rules_of(spec, shapes=config.shapes).sizes if config.shapes != "native" else ((spec.native_height, spec.native_width),)
    height, width = max(sizes, key=lambda size: size[0] * size[1])
    if config.method == "stage-two":  # as many latent frames as a window has slots
        return (SLOTS - 1) * spec.temporal_scale + 1, height, width
    return spec.native_frames, height, width


def _ways(spec: ModelSpec, config: TrainConfig, machine: Hardware, words: Sequence[str]) -> list[tuple[tuple[str, ...], str]]:
    """(policy, where the base's blocks wait) from the fastest to the smallest. A streamed block cannot be kept whole: its weights would
    be kept with it."""
    source = {"auto": "ram" if machine.device.startswith("cuda") else "disk", "no": ""}.get(config.streaming, config.streaming)
    never = config.sharding != "no" or config.dora or config.method == "full" or spec.layers <= WAITING_BLOCKS or words == ("keep",)
    if config.streaming == "auto" and never:
        source = ""
    resident = [] if config.streaming in ("ram", "disk") else [(policy, "") for policy in _policies(spec.layers, words)]
    if not source:
        return resident
    again = [word for word in words if word != "keep"] or ["recompute"]
    return resident + [(policy, source) for policy in _policies(spec.layers, again) if "keep" not in policy]


def cost(spec: ModelSpec, config: TrainConfig, machine: Hardware, policy: Sequence[str], bucket: Size | None = None,
         streamed: str = "", ranks: int = 1, text: str = "disk") -> Choice:
    """Memory and arithmetic of one update with `policy`, of each of `ranks` processes, the base's blocks `streamed` from 'ram' or 'disk' or
    on the device (''), those of the text encoder too (`text`)."""
    frames, height, width = bucket or (spec.native_frames, spec.native_height, spec.native_width)
    dtype = config.precision if config.precision != "auto" else "bf16" if machine.bf16 else "fp32"
    number = NUMBER_BYTES[dtype]
    shape = Shape(frames, height, width, False)
    count, parts_of_clip = tokens(spec, shape), config.sequence_parallel
    whole_map = config.batch * count * spec.width * number
    one_map = config.batch * -(-count // parts_of_clip) * spec.width * number
    exchange = EXCHANGED_MAPS * one_map + WHOLE_MAPS * whole_map if parts_of_clip > 1 else 0
    full = config.method == "full"
    kind = {"full": "full", "stage-two": "all"}.get(config.method, config.targets)
    block = KEPT_MAPS.get(kind, KEPT_MAPS["all"])[number == 4] * one_map
    kept = sum(block if word == "keep" else one_map if word == "recompute" else 0 for word in policy)
    at_work = 0 if all(word == "keep" for word in policy) else block
    trained = lora_numbers(spec, config)
    sampled, _ = latent_frames(spec, frames)
    latents = 4 * 8 * config.batch * sampled * spec.latent_channels * (height // spec.spatial_scale) * (width // spec.spatial_scale)
    stored = dtype if config.base == "same" else config.base
    home = Home(stored, "streamed", streamed) if streamed else Home(stored, "resident")
    held = int(trained * 4 * (LORA_NUMBERS[config.optimizer] + (1 if config.ema else 0)))
    # Of a whole model each number is a weight already; autocast keeps a rounded copy of those at work.
    weights = {"weights": trained * (4 if number == 4 else 6), "trained": held - 4 * trained} if full else {
        "weights": working_bytes(layout(spec, "transformer"), home, dtype), "lora": held}
    if config.sharding == "fsdp" and ranks > 1:  # a share of all, and two blocks whole: the one at work and the one that arrives
        there = slot_bytes(layout(spec, "transformer"), Home(stored, "streamed"), dtype)
        weights = {name: size if name == "lora" else size // ranks for name, size in weights.items()}
        weights["weights"] += there
    context = CONTEXT_BYTES if machine.device.startswith("cuda") else 0
    parts = weights | {"blocks": int(kept), "work": int(at_work + 6 * one_map + exchange + latents) + context}
    parts |= captions_bytes(spec, dtype, text, parts["blocks"] + parts["work"] - context)
    parts |= first_frame_bytes(spec, config, (frames, height, width), dtype, parts["blocks"] + parts["work"])
    again = sum(word != "keep" for word in policy) / max(1, len(policy))
    forward = config.batch * spec.layers * (24.0 * count * spec.width**2 + 4.0 * count**2 * spec.width)
    # Backward: the base's gradients to its inputs (as much as forward), LoRA's own are small; attention's backward is 2.5 times forward.
    return Choice(tuple(policy), sum(parts.values()), parts, config.accumulate * forward * (2.2 + again) / ranks, streamed, text)


def text_home(dtype: str, text: str) -> Home:
    """Of a text encoder beside a base: in its files until words are encoded, then whole on the device or, with `text` 'disk', block by
    block."""
    return Home(dtype, "streamed" if text else "staged", "disk")


def captions_bytes(spec: ModelSpec, dtype: str, text: str, free: int) -> dict[str, int]:
    """What the text encoder takes beyond the `free` bytes of a step: captions are encoded before the first one, beside all that stays."""
    beyond = working_bytes(layout(spec, "text_encoder"), text_home(dtype, text), dtype) - free
    return {"captions": beyond} if beyond > 0 else {}


def first_frame_bytes(spec: ModelSpec, config: TrainConfig, size: Size, dtype: str, free: int) -> dict[str, int]:
    """What putting noise on first frames takes: the VAE's weights, and what encoding a frame needs beyond the `free` bytes of a step, which
    begins after it."""
    if spec.modes[0] != "i2v" or not config.image_noise or config.image_dropout >= 1:
        return {}
    frames, height, width = size
    way = everywhere(dtype, "resident", (height, width), tiled=False)
    way = replace(way, decode="banded" if height * width > WHOLE_PIXELS else "whole")
    encode = encode_frames_bytes(spec, Shape(frames, height, width, False, 1), dtype, way)
    return {"vae": working_bytes(layout(spec, "vae"), way.vae, dtype) + max(0, encode - free)}


def lora_numbers(spec: ModelSpec, config: TrainConfig) -> int:
    """Trained numbers: all of the transformer's with method full; else from the checkpoint's own layers, or the shapes of a published
    CogVideoX block where only facts are here."""
    layers = TARGETS["all"] if config.method == "stage-two" else config.layers
    if config.method == "full":
        return spec.component_parameters["transformer"]
    if spec.installed:
        return config.rank * sum(sum(shape) for name, shape in model_layers(spec).items() if name.endswith(layers))
    d = spec.width
    sizes = {"attn1.to_q": (d, d), "attn1.to_k": (d, d), "attn1.to_v": (d, d), "attn1.to_out.0": (d, d), "ff.net.0.proj": (d, 4 * d),
             "ff.net.2": (4 * d, d), "norm1.linear": (512, 6 * d), "norm2.linear": (512, 6 * d)}
    return spec.layers * sum(config.rank * sum(sizes.get(layer, (d, d))) for layer in layers)


def checkpoint_bytes(config: TrainConfig) -> int:
    """Of each trained number in a checkpoint: itself, what the optimizer keeps, and its average; no gradient."""
    return round(4 * (LORA_NUMBERS[config.optimizer] - 1 + bool(config.ema)))


def step_seconds(choice: Choice, machine: Hardware, measured: float | None = None) -> float:
    """Of one update: by arithmetic a second that this machine was `measured` at, or an assumed one."""
    assumed = SPEED["cuda"] if machine.device.startswith("cuda") else SPEED["cpu"] * machine.cores
    return choice.flops / (measured or assumed)


def _policies(layers: int, words: Sequence[str]) -> list[tuple[str, ...]]:
    """From the fastest to the smallest: all kept, some recomputed, all recomputed, some of their inputs away, all."""
    if len(words) == 1:
        return [(words[0],) * layers]
    if "keep" not in words:
        return [("recompute",) * layers, *(("offload",) * rung + ("recompute",) * (layers - rung) for rung in _rungs(layers)[1:])]
    rungs = _rungs(layers)
    made = [("recompute",) * rung + ("keep",) * (layers - rung) for rung in rungs]
    return made + [("offload",) * rung + ("recompute",) * (layers - rung) for rung in rungs[1:]]


def _rungs(layers: int) -> list[int]:
    return sorted({0, *(round(layers * eighth / 8) for eighth in range(1, 9))})
