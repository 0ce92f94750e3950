"""Facts of one checkpoint, read from its own config files and safetensors headers. No weight is loaded, no torch.

    folder (diffusers layout) --read_spec--> ModelSpec

Everything a plan needs to know about a model stands in `ModelSpec`; nothing else in the engine asks for a model's name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import ModelInvalid, ModelNotFound
from engine.models.layout import Layout, layout_of
from engine.models.weights import WeightFile, component_weights
from engine.request import MAX_GUIDANCE, MAX_STEPS

PIPELINES = {"CogVideoXPipeline": ("t2v", "v2v"), "CogVideoXVideoToVideoPipeline": ("t2v", "v2v"),
             "CogVideoXImageToVideoPipeline": ("i2v",), "CogVideoXInterpolationPipeline": ("i2v",),
             "CogVideoXFunInpaintPipeline": ("t2v", "i2v"), "CogVideoX_Fun_Pipeline_Inpaint": ("t2v", "i2v")}
"""What a checkpoint can do, by the class it is saved as. A text checkpoint also changes videos: same weights, noise added
to the video instead of noise alone. An image checkpoint reads the image in channels of its own, so it needs one. The last three are
shown more than a first frame, see `ModelSpec.shown`."""
ENDS_CLASS = "CogVideoXInterpolationPipeline"
ENDS_MODELS = ("feizhengcong/cogvideox-interpolation",)
"""Hub ids, small letters, of models that are shown first and last frame and are saved as image-to-video ones. A folder says so itself by
`"shown": "ends"` in its sprocket.json: their config is that of an image-to-video model."""
SHOWN = ("", "ends", "masked")
COMPONENTS = ("tokenizer", "text_encoder", "vae", "transformer", "scheduler")
CLASSES = {
    "tokenizer": ("T5Tokenizer", "T5TokenizerFast"),
    "text_encoder": ("T5EncoderModel",),
    "vae": ("AutoencoderKLCogVideoX",),
    "transformer": ("CogVideoXTransformer3DModel",),
    "scheduler": ("CogVideoXDPMScheduler", "CogVideoXDDIMScheduler"),
}
CONFIG_FILES = {
    "tokenizer": "tokenizer_config.json", "text_encoder": "config.json", "vae": "config.json",
    "transformer": "config.json", "scheduler": "scheduler_config.json",
}
WEIGHTED = ("text_encoder", "vae", "transformer")
SCHEDULER_NAMES = {"CogVideoXDPMScheduler": "dpm", "CogVideoXDDIMScheduler": "ddim"}
MAX_CONFIG_BYTES = 4 * 2**20
SCHEDULER_WORDS = {"prediction_type": ("v_prediction", "epsilon", "sample"),
                   "beta_schedule": ("scaled_linear", "linear", "squaredcos_cap_v2")}
MAX_TRAIN_TIMESTEPS = 100_000
MAX_VAE_BLOCKS = 8
SAMPLE_BLOCKS = 64
SAMPLE_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """One checkpoint."""

    name: str
    """What people call it: the folder's name, or the catalogue's."""
    path: Path
    """The folder in diffusers layout."""
    family: str
    """'cogvideox' or 'cogvideox-1.5'."""
    fingerprint: str
    """40 hex digits over configs, headers and samples of the weights: another training has another fingerprint."""
    revision: str | None
    """Commit of the hub repository, where the folder is a hub snapshot."""
    native_width: int
    native_height: int
    native_frames: int
    fps: float
    max_frames: int
    max_width: int
    max_height: int
    fixed_size: bool
    """True where only the native width and height run (learned positions)."""
    frame_step: int
    """Frames must be `frame_step * k + 1`."""
    size_multiple: int
    """Width and height must be multiples of this many pixels."""
    spatial_scale: int
    """Pixels per latent, each way."""
    temporal_scale: int
    """Frames per latent frame (after the first)."""
    patch_size: int
    patch_size_t: int | None
    """Latent frames per patch (CogVideoX 1.5); None for 1.0."""
    latent_channels: int
    max_text_tokens: int
    position: str
    """'rope', 'sincos' or 'learned'."""
    scaling_factor: float
    invert_scale_latents: bool
    """True where the latents of a first frame are divided by `scaling_factor` instead (CogVideoX 1.5 image to video)."""
    scheduler: str
    """'dpm' or 'ddim': the checkpoint's own."""
    train_timesteps: int
    recommended_steps: int
    recommended_guidance: float
    layers: int
    width: int
    """Channels of the transformer's residual stream."""
    heads: int
    vae_channels: tuple[int, ...]
    vae_layers: int
    text_width: int
    stored_dtype: str
    """Of the transformer's weights as stored: 'bf16', 'fp16' or 'fp32'."""
    component_bytes: Mapping[str, int]
    """Bytes of weights as stored, by component."""
    component_parameters: Mapping[str, int]
    """Numbers in the weights, by component."""
    modes: tuple[str, ...] = ("t2v", "v2v")
    """What it can do, of 't2v', 'i2v' and 'v2v'; the first is what it is made for."""
    shown: str = ""
    """Which frames of the clip stand beside the noise, where it is more than a first one: 'ends' (first and last), 'masked' (any, with a
    mask). See `engine.interpolate.shown`."""
    noisy_frames: bool = False
    """Trained with noise on the frames that it is shown, and wants some at work too (CogVideoX-Fun 1.1)."""
    takes_offset: bool = False
    """True where the transformer wants an offset beside the time (`ofs`, CogVideoX 1.5 image to video)."""
    layout: Mapping[str, Layout] = field(default_factory=dict)
    """How those numbers are spread over blocks and matrices, by component."""
    installed: bool = True
    """False where only facts about the checkpoint are here (`engine.facts`): it can be planned, not run."""

    @property
    def parameters(self) -> int:
        return sum(self.component_parameters.values())

    def to_json(self) -> dict[str, Any]:
        """All fields by name, JSON types only."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"path": str(self.path), "vae_channels": list(self.vae_channels), "modes": list(self.modes),
                         "component_bytes": dict(self.component_bytes),
                         "component_parameters": dict(self.component_parameters),
                         "layout": {part: layout.to_json() for part, layout in self.layout.items()}}


def read_spec(folder: Path, name: str | None = None) -> ModelSpec:
    """The spec of the checkpoint in `folder`.

    Reads a few KB of JSON, the headers and 64 small samples of each weight file.
    Raises `ModelNotFound` if there is no such folder, `ModelInvalid` for anything this engine must not or cannot run:
    missing files, pickled weights, foreign classes, damaged headers, values out of range.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelNotFound(f"there is no model folder {folder}. `sprocket models list` prints what is installed.")
    index = read_json(folder / "model_index.json", folder)
    check_classes(index, folder)
    configs = {part: read_json(folder / part / CONFIG_FILES[part], folder) for part in COMPONENTS}
    try:
        weights = {part: component_weights(folder / part) for part in WEIGHTED}
    except OSError as error:
        raise ModelInvalid(f"{error.filename or folder} cannot be read ({error.strerror}). Check who may read it.") from error
    extra = read_json(folder / "sprocket.json", folder) if (folder / "sprocket.json").exists() else {}
    try:
        return build_spec(folder, name or folder.name, index, configs, weights, extra, fingerprint=_fingerprint(folder, weights))
    except (KeyError, TypeError, ValueError, ArithmeticError, IndexError, AttributeError) as error:
        raise ModelInvalid(f"{folder}: a config lacks a value or holds a wrong one ({type(error).__name__}: {error}). "
                           "Fetch the model again.") from error


def read_json(path: Path, folder: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises `ModelInvalid` if it is missing, huge, not JSON or not an object."""
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ModelInvalid(f"{path} has {path.stat().st_size:,} bytes; a config has at most {MAX_CONFIG_BYTES:,}.")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelInvalid(f"{folder} lacks {path.relative_to(folder)}, so it is no complete model in diffusers "
                           "layout. Fetch the model again, or choose another folder.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelInvalid(f"{path} cannot be read as JSON ({error}). Fetch the model again.") from error
    if not isinstance(value, dict):
        raise ModelInvalid(f"{path} holds a {type(value).__name__}, not an object of settings. Fetch the model again.")
    return value


def check_classes(index: Mapping[str, Any], called: object) -> None:
    """Raises `ModelInvalid` unless the model_index.json of the model `called` so names the classes this engine runs."""
    kind = index.get("_class_name")
    if not isinstance(kind, str) or kind not in PIPELINES:
        raise ModelInvalid(f"{called} is a {str(kind)[:60]}; this version of Sprocket runs {', '.join(PIPELINES)}.")
    for part in COMPONENTS:
        entry = index.get(part)
        found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if found not in CLASSES[part]:
            raise ModelInvalid(f"{called}: {part} is {str(found)[:60]}; only {' or '.join(CLASSES[part])} is run. "
                               "Code that comes with a model is never executed.")


def build_spec(folder: Path, name: str, index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]],
               weights: Mapping[str, tuple[WeightFile, ...]], extra: Mapping[str, Any], *, fingerprint: str,
               installed: bool = True) -> ModelSpec:
    """The spec from configs and headers already read. Raises `ModelInvalid` and what a config without a value raises."""
    dit, vae, text, sched = (configs[part] for part in ("transformer", "vae", "text_encoder", "scheduler"))
    wish = extra.get("recommended", {})
    channels = tuple(_positive(c) for c in vae["block_out_channels"][:MAX_VAE_BLOCKS + 1])
    if not 1 <= len(channels) <= MAX_VAE_BLOCKS:
        raise ValueError(f"block_out_channels has {len(vae['block_out_channels'])} entries; 1 to {MAX_VAE_BLOCKS} are allowed")
    spatial = 2 ** (len(channels) - 1)
    temporal = _positive(vae.get("temporal_compression_ratio", 4))
    patch, patch_t = _positive(dit["patch_size"]), dit.get("patch_size_t")
    # Every layer has weights of its own, so a config that promises more layers than there are tensors lies; building
    # the layers before finding that out could take for ever.
    tensors = {part: sum(len(file.tensors) for file in files) for part, files in weights.items()}
    _positive(text["num_layers"], tensors["text_encoder"])
    modes, shown = _modes(folder, index["_class_name"], dit, vae, name, extra)
    position = _position(dit)
    width, height = _positive(dit["sample_width"]) * spatial, _positive(dit["sample_height"]) * spatial
    # 1.5 slices its rotary table out of a grid of the native size, so nothing larger runs.
    bounded = patch_t is not None or position == "learned"
    step = 2 * temporal
    frames = int(wish.get("num_frames") or dit["sample_frames"])
    frames -= (frames - 1) % step
    own = SCHEDULER_NAMES[index["scheduler"][1]]
    for key, known in SCHEDULER_WORDS.items():
        if sched.get(key, known[0]) not in known:
            raise ValueError(f"{key} {str(sched[key])[:40]!r} is not one of {', '.join(known)}")
    return ModelSpec(
        name=name, path=folder, family="cogvideox-1.5" if patch_t else "cogvideox",
        fingerprint=fingerprint, revision=_revision(folder),
        native_width=_positive(wish.get("width") or width), native_height=_positive(wish.get("height") or height),
        native_frames=_positive(frames), fps=_real(wish.get("fps") or (16 if patch_t else 8), 1, 120),
        max_frames=_positive(extra.get("max_frames") or max(frames, 161 if patch_t else 49)),
        max_width=width if bounded else 4096, max_height=height if bounded else 4096, fixed_size=position == "learned",
        frame_step=step, size_multiple=spatial * patch, spatial_scale=spatial, temporal_scale=temporal,
        patch_size=patch, patch_size_t=None if patch_t is None else _positive(patch_t),
        latent_channels=_positive(vae["latent_channels"]), max_text_tokens=_positive(dit["max_text_seq_length"]),
        position=position, scaling_factor=_real(vae["scaling_factor"], 1e-6, 1e6),
        invert_scale_latents=bool(vae.get("invert_scale_latents", False)),
        scheduler=own, train_timesteps=_positive(sched.get("num_train_timesteps", 1000), MAX_TRAIN_TIMESTEPS),
        recommended_steps=_positive(wish.get("num_inference_steps") or 50, MAX_STEPS),
        recommended_guidance=_real(wish.get("guidance_scale") or 6.0, 0, MAX_GUIDANCE),
        layers=_positive(dit["num_layers"], tensors["transformer"]), heads=_positive(dit["num_attention_heads"]),
        width=_positive(dit["num_attention_heads"]) * _positive(dit["attention_head_dim"]),
        vae_channels=channels, vae_layers=_positive(vae["layers_per_block"], tensors["vae"]),
        text_width=_positive(text["d_model"]), stored_dtype=weights["transformer"][0].dtype,
        component_bytes={part: sum(w.data_bytes for w in files) for part, files in weights.items()},
        component_parameters={part: sum(w.parameters for w in files) for part, files in weights.items()},
        layout={part: layout_of({name: shape for file in files for name, (_, shape) in file.tensors.items()})
                for part, files in weights.items()}, installed=installed,
        modes=modes, shown=shown, noisy_frames=shown == "masked" and dit.get("add_noise_in_inpaint_model") is True,
        takes_offset=dit.get("ofs_embed_dim") is not None,
    )


def _modes(folder: Path, kind: str, dit: Mapping[str, Any], vae: Mapping[str, Any], name: str,
           extra: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """(what the checkpoint can do, which frames it is shown): its class says what it is, its channels must agree.

    A mask and a video beside the noise are 2 C + 1 channels, which nothing else has; so they are known whatever the class is called.
    """
    modes, latent = PIPELINES[kind], _positive(vae["latent_channels"])
    takes, gives = _positive(dit["in_channels"]), _positive(dit.get("out_channels", latent))
    said = extra.get("shown", "")
    if said not in SHOWN:
        raise ValueError(f"shown {str(said)[:40]!r} is not one of {', '.join(SHOWN[1:])}")
    shown = "ends" if kind == ENDS_CLASS or said == "ends" or name.casefold() in ENDS_MODELS else ""
    needs = 2 * latent if modes == ("i2v",) else latent
    if takes == 2 * latent + 1 or said == "masked" or "Fun" in kind:
        modes, shown, needs = ("t2v", "i2v"), "masked", 2 * latent + 1
    elif shown:
        modes, needs = ("i2v",), 2 * latent
    if takes != needs:
        hint = (" It looks like an image-to-video model saved as another class." if takes == 2 * latent else
                " It looks like a text-to-video model saved as another class." if takes == latent else "")
        raise ModelInvalid(f"{folder}: the transformer takes {takes} channels; a {kind} over a VAE of {latent} channels "
                           f"takes {needs}.{hint} Fetch the model again.")
    if gives != latent:
        raise ModelInvalid(f"{folder}: the transformer gives {gives} channels, the VAE reads {latent}. Fetch the model again.")
    return modes, shown


def _position(dit: Mapping[str, Any]) -> str:
    rotary = bool(dit.get("use_rotary_positional_embeddings"))
    if dit.get("use_learned_positional_embeddings"):
        if not rotary:  # diffusers refuses it too: there is no such checkpoint
            raise ValueError("learned positions come with rotary ones, and this config turns those off")
        return "learned"
    return "rope" if rotary else "sincos"


def _positive(value: Any, most: int = 2**31 - 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"{str(value)[:40]!r} is not a whole number from 1 to {most:,}")
    return value


def _real(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{str(value)[:40]!r} is not a number from {low:g} to {high:g}")
    return float(value)


def _revision(folder: Path) -> str | None:
    """The commit, where `folder` is `.../snapshots/<commit>` of the hub's cache."""
    return folder.name if folder.parent.name == "snapshots" and len(folder.name) == 40 else None


def _fingerprint(folder: Path, weights: Mapping[str, tuple[WeightFile, ...]]) -> str:
    """sha256 (first 40 hex) of every config, every header and `SAMPLE_BLOCKS` even samples of every weight file.

    Two trainings of one architecture have equal headers and sizes, hence the samples. Reading 20 GB to be sure would
    take longer than many a clip.
    """
    digest = hashlib.sha256()
    for part in COMPONENTS:
        digest.update((folder / part / CONFIG_FILES[part]).read_bytes())
    for part in WEIGHTED:
        _feed_samples(digest, part, weights[part])
    return digest.hexdigest()[:40]


def part_fingerprint(spec: ModelSpec, part: str) -> str:
    """40 hex digits over one component's config, headers and samples: what stays the same where only another one was trained.

    Raises `ModelInvalid`, OSError.
    """
    digest = hashlib.sha256((spec.path / part / CONFIG_FILES[part]).read_bytes())
    _feed_samples(digest, part, component_weights(spec.path / part))
    return digest.hexdigest()[:40]


def _feed_samples(digest: Any, part: str, weights: tuple[WeightFile, ...]) -> None:
    for weight in weights:
        digest.update(f"{part}/{weight.path.name}:{weight.size}".encode())
        with weight.path.open("rb") as file:
            digest.update(file.read(weight.header_bytes))
            for block in range(SAMPLE_BLOCKS):
                file.seek(weight.header_bytes + weight.data_bytes * block // SAMPLE_BLOCKS)
                digest.update(file.read(SAMPLE_BYTES))
