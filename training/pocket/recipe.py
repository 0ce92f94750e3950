"""The recipe, stage by stage: vae -> latents, reader -> denoiser -> animator, decoder, each resumable, then export.

Every stage reads what the stage before left in the work folder and leaves one file (or shards)
there; a stage that is done is skipped. The same functions run on CPU and GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model
from torch import Tensor, nn

from . import denoiser, latents, reader, vae, world
from .arithmetic import mixed
from .attention import BatchedAttention
from .interpolator import Interpolation
from .models import (
    Architecture,
    build_scheduler,
    build_text_encoder,
    build_transformer,
    build_vae,
    save_animator,
    save_pipeline,
)
from .tokenizer import build_tokenizer
from .trainer import Curve, Schedule, TrainState, load_average, train

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights. Tests use a much smaller one."""

    seed: int = 0
    architecture: Architecture = field(default_factory=Architecture)
    vae_phases: tuple[vae.VaePhase, ...] = vae.PHASES
    vae_lr: float = 3e-3
    decoder_phases: tuple[vae.VaePhase, ...] = vae.DECODER_PHASES
    decoder_lr: float = 8e-4
    shelves: tuple[latents.Shelf, ...] = (
        latents.Shelf(25, 4200),
        latents.Shelf(1, 6000),
        latents.Shelf(49, 100),
    )
    reader_phase: reader.ReaderPhase = reader.PHASE
    reader_lr: float = 3e-3
    denoiser_phases: tuple[denoiser.DenoiserPhase, ...] = denoiser.PHASES
    denoiser_lr: float = 3e-3
    released_lr: float = 2e-3
    """Of the denoiser where it goes on from released weights."""
    animator_phases: tuple[denoiser.DenoiserPhase, ...] = denoiser.ANIMATOR_PHASES
    animator_lr: float = 1e-3
    interpolation: Interpolation = field(default_factory=Interpolation)
    preview_clips: int = 48
    """Clips that the map from latents to preview colours is fitted on."""
    recommended_steps: int = 10
    """Of words to video: more steps of weights this young add up their errors, and outlines suffer."""
    recommended_animator_steps: int = 20
    recommended_guidance: float = 2.5


@dataclass(frozen=True)
class Workshop:
    """Where a run works: its folder of checkpoints, its device, and how often it saves (seconds)."""

    folder: Path
    device: str = "cpu"
    save_every: float = 90.0
    released: Path | None = None
    """A pipeline whose weights are gone on from: its autoencoder stays, its transformer begins the last phase."""
    until: int | None = None
    """Stop the stage at this step, as a kill would but tidily; for tests and trials."""


def extended(recipe: Recipe, stage: str, steps: int) -> Recipe:
    """The recipe with more steps in the last phase of a stage.

    The learning rate follows the longer schedule, so a stage that had ended warms up again.
    """
    field_name = f"{stage}_phases"
    if field_name not in ("vae_phases", "decoder_phases", "denoiser_phases", "animator_phases"):
        raise ValueError(f"stage {stage!r} has no steps to extend; choose vae, decoder, denoiser or animator")
    *first, last = getattr(recipe, field_name)
    changed: dict[str, Any] = {field_name: (*first, replace(last, steps=last.steps + steps))}
    return replace(recipe, **changed)


def _total(phases: tuple) -> int:
    return sum(phase.steps for phase in phases)


def run_vae(recipe: Recipe, shop: Workshop) -> None:
    """Stage 1: encoder and decoder together."""
    torch.manual_seed(recipe.seed + 1)
    model = build_vae(recipe.architecture).to(shop.device)
    state = TrainState(model, shop.folder / "vae.safetensors", ("conv_in.", "conv_out."))
    schedule = Schedule(_total(recipe.vae_phases), recipe.vae_lr, warmup=30, cooldown=0.6)
    _run(state, schedule, _vae_loss_at(model, recipe, recipe.vae_phases, shop.device), shop)


def run_decoder(recipe: Recipe, shop: Workshop) -> None:
    """Stage 1b: the decoder alone, on whole frames and several chunks; the latents stay as they are."""
    model = load_vae(recipe, shop, decoder=False)
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    state = TrainState(model.decoder, shop.folder / "decoder.safetensors", ("conv_in.", "conv_out."))
    schedule = Schedule(_total(recipe.decoder_phases), recipe.decoder_lr, warmup=30, cooldown=0.7)
    loss_at = _vae_loss_at(model, recipe, recipe.decoder_phases, shop.device, vae.decoder_loss, first_step=1_000_000)
    _run(state, schedule, loss_at, shop)


def _vae_loss_at(model, recipe: Recipe, phases, device: str, loss=vae.vae_loss, first_step: int = 0):
    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        phase = vae.phase_at(step, phases)
        video, mask = vae.crop_batch(recipe.seed, first_step + step, phase)
        with mixed(device):
            return loss(model, video.to(device), mask.to(device), first_step + step)

    return loss_at


def load_vae(recipe: Recipe, shop: Workshop, *, decoder: bool = True):
    """The trained autoencoder in fp32, with the refined decoder when there is one."""
    model = build_vae(recipe.architecture).to(shop.device).eval()
    if shop.released and not (shop.folder / "vae.safetensors").exists():
        load_released(model, shop.released / "vae")
    else:
        load_average(model, shop.folder / "vae.safetensors")
    if decoder and (shop.folder / "decoder.safetensors").exists():
        load_average(model.decoder, shop.folder / "decoder.safetensors")
    return model


def run_latents(recipe: Recipe, shop: Workshop, say: Say) -> None:
    """Stage 2: every shard of every shelf."""
    model = load_vae(recipe, shop, decoder=False)
    for shelf in recipe.shelves:
        for number in range(shelf.clips // latents.SHARD):
            latents.make_shard(model, shop.folder, shelf, number, seed=recipe.seed, device=shop.device)
            say(f"latents: {shelf.frames} frames, {(number + 1) * latents.SHARD}/{shelf.clips} clips")


def run_reader(recipe: Recipe, shop: Workshop) -> None:
    """Stage 3: the text encoder alone, answering questions about captions."""
    model, tokenizer = build_reader(recipe, shop), build_tokenizer()

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        ids, right = reader.draw_captions(tokenizer, recipe.reader_phase, seed=recipe.seed, step=step)
        with mixed(shop.device):
            states = model["text_encoder"](ids.to(shop.device)).last_hidden_state
            return reader.reading_loss(model["reading"], states, right.to(shop.device))

    state = TrainState(model, shop.folder / "reader.safetensors", ("shared", "reading"))
    _run(state, Schedule(recipe.reader_phase.steps, recipe.reader_lr, cooldown=0.5), loss_at, shop)


def build_reader(recipe: Recipe, shop: Workshop) -> nn.ModuleDict:
    torch.manual_seed(recipe.seed + 3)
    heads = nn.Linear(recipe.architecture.text_dim, reader.ANSWERS)
    return nn.ModuleDict({"text_encoder": build_text_encoder(recipe.architecture), "reading": heads}).to(shop.device)


def run_denoiser(recipe: Recipe, shop: Workshop) -> None:
    """Stage 4: transformer and text encoder together."""
    model = build_denoiser(recipe, shop)
    state = TrainState(model, shop.folder / "denoiser.safetensors", ("shared", "patch_embed", "proj_out", "reading", "sketch"))
    begin = _total(recipe.denoiser_phases[:-1]) if shop.released else 0
    state.step = max(state.step, begin)
    lr = recipe.released_lr if shop.released else recipe.denoiser_lr
    schedule = Schedule(_total(recipe.denoiser_phases), lr, warmup=100, cooldown=0.65, ema=0.997, begin=begin)
    _run(state, schedule, _denoiser_loss_at(model, recipe, shop), shop)


def build_denoiser(recipe: Recipe, shop: Workshop) -> nn.ModuleDict:
    """A transformer and its helpers, beside the text encoder that can read."""
    model = build_reader(recipe, shop)
    if not shop.released:
        load_average(model, shop.folder / "reader.safetensors")
    torch.manual_seed(recipe.seed + 2)
    transformer = build_transformer(recipe.architecture)
    transformer.set_attn_processor(BatchedAttention())
    model["transformer"] = transformer.to(shop.device)
    model["sketch"] = nn.Linear(transformer.config.num_attention_heads * transformer.config.attention_head_dim, 4).to(shop.device)
    if shop.released:
        load_released(transformer, shop.released / "transformer")
        load_released(model["text_encoder"], shop.released / "text_encoder")
        model["text_encoder"].requires_grad_(False)  # the released models of image to video read with it too
        for weight in (*model["reading"].parameters(), *model["sketch"].parameters()):
            nn.init.zeros_(weight)  # the helpers were not released; at zero they disturb nothing while they learn
    else:
        denoiser.tell_time(transformer)
    return model


def run_animator(recipe: Recipe, shop: Workshop) -> None:
    """Stage 5: one transformer for words alone and for a first frame besides; the text encoder stays as it is.

    Some clips of each batch are given their first frame and the others none. What comes out is the transformer of image
    to video, and without the channels of the picture (see `with_input`) that of text to video: each learns from the other.
    """
    pair = trained_denoiser(recipe, shop)
    model, text_encoder = begin_animator(recipe, shop, pair), pair["text_encoder"].requires_grad_(False)
    state = TrainState(model, shop.folder / "animator.safetensors", ("patch_embed", "proj_out", "sketch"))
    schedule = Schedule(_total(recipe.animator_phases), recipe.animator_lr, warmup=40, cooldown=0.9, ema=0.993)
    draw = _batches(recipe, shop, recipe.animator_phases, pictures=denoiser.PICTURE_SHARE)
    alphas = build_scheduler().alphas_cumprod.float().to(shop.device)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        batch, rope = draw(step)
        with mixed(shop.device):
            with torch.no_grad():
                text = text_encoder(batch.ids).last_hidden_state
            loss, plain, halfway = denoiser.v_error(model["transformer"], alphas, batch, text, rope)
            sketch = denoiser.sketch_loss(model["sketch"], halfway, batch)
        return loss + denoiser.SKETCH_SHARE * sketch, {"v_mse": plain, "sketch": float(sketch.detach())}

    _run(state, schedule, loss_at, shop)


def begin_animator(recipe: Recipe, shop: Workshop, pair: nn.ModuleDict) -> nn.ModuleDict:
    """The transformer with its helper: from `pair`, which stage 4 left, or the released weights of image to video."""
    transformer = with_input(recipe, pair["transformer"], pictures=True).to(shop.device)
    if shop.released and not (shop.folder / "denoiser.safetensors").exists():
        load_released(transformer, shop.released.with_name(f"{shop.released.name}-i2v") / "transformer")
    sketch = pair["sketch"]
    for weight in sketch.parameters():
        nn.init.zeros_(weight)
    return nn.ModuleDict({"transformer": transformer, "sketch": sketch})


def trained_denoiser(recipe: Recipe, shop: Workshop) -> nn.ModuleDict:
    """What stage 4 left, or the released weights where it has not run."""
    pair = build_denoiser(recipe, shop)
    if not shop.released or (shop.folder / "denoiser.safetensors").exists():
        load_average(pair, shop.folder / "denoiser.safetensors")
    return pair


@torch.no_grad()
def with_input(recipe: Recipe, start: nn.Module, *, pictures: bool) -> Any:
    """The transformer `start` with the input channels of image to video (`pictures`) or of text to video.

    Channels that it had not weigh nothing; without those of the picture it does what it did where no picture was given.
    """
    model: Any = build_transformer(recipe.architecture, pictures=pictures)
    model.set_attn_processor(BatchedAttention())
    weights = dict(start.state_dict())
    old, new = weights.pop("patch_embed.proj.weight"), torch.zeros_like(model.patch_embed.proj.weight)
    both = min(old.shape[1], new.shape[1])
    new[:, :both] = old[:, :both]
    model.load_state_dict({**weights, "patch_embed.proj.weight": new})
    return model


def load_released(model: nn.Module, folder: Path) -> None:
    """Fill a model with the weights of its folder in a released pipeline, widened to the model's precision."""
    (file,) = folder.glob("*.safetensors")
    load_model(model, file, strict=False)


def latent_scale(recipe: Recipe, shop: Workshop) -> float:
    """The scaling factor: that of the released autoencoder, if it stays; else measured on the first shard of the first shelf."""
    if shop.released and not (shop.folder / "vae.safetensors").exists():
        return json.loads((shop.released / "vae" / "config.json").read_text())["scaling_factor"]
    shelf = recipe.shelves[0]
    return latents.latent_scale(latents.load_shelf(shop.folder, latents.Shelf(shelf.frames, latents.SHARD)))


def _denoiser_loss_at(model, recipe: Recipe, shop: Workshop):
    alphas = build_scheduler().alphas_cumprod.float().to(shop.device)
    draw = _batches(recipe, shop, recipe.denoiser_phases)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        batch, rope = draw(step)
        with mixed(shop.device):
            return denoiser.v_loss(model, alphas, batch, rope)

    return loss_at


def _batches(recipe: Recipe, shop: Workshop, phases: tuple[denoiser.DenoiserPhase, ...], *, pictures: float = 0.0):
    """step -> (batch, rotary tables), on the device; shelves are read when they are first asked for."""
    tokenizer, scale = build_tokenizer(), latent_scale(recipe, shop)
    shelves: dict[int, latents.Cached] = {}

    def draw(step: int) -> tuple[denoiser.Batch, tuple[Tensor, Tensor]]:
        phase = denoiser.phase_at(step, phases)
        for shelf in recipe.shelves:
            if shelf.frames not in shelves and any(shelf.frames == m[0] for m in phase.mix):
                shelves[shelf.frames] = latents.load_shelf(shop.folder, shelf)
        batch = denoiser.draw_batch(shelves, tokenizer, phase, scale, seed=recipe.seed, step=step, pictures=pictures)
        cos, sin = denoiser.rotary(batch.latents.shape[1], head_dim=recipe.architecture.head_dim)
        return batch.to(shop.device), (cos.to(shop.device), sin.to(shop.device))

    return draw


def _run(state: TrainState, schedule: Schedule, loss_at, shop: Workshop) -> None:
    curve = Curve(state.path.with_suffix(".jsonl"), every=20)
    for progress in train(state, schedule, loss_at, save_every=shop.save_every, until=shop.until):
        curve.add(progress)


# --- export ----------------------------------------------------------------------------------


@torch.no_grad()
def fit_latent_rgb(model, scale: float, *, seed: int, clips: int, device: str = "cpu") -> dict:
    """Least-squares linear map from one scaled latent cell to the mean RGB, 0..1, of its 8x8 patch."""
    rows, colours = [], []
    for index in range(clips):
        clip = world.render(world.scene_at(seed + 77, index), 9)
        with mixed(device):
            mean = model.encode(latents.to_tensor(clip.video, device)).latent_dist.mean[0].float().cpu() * scale
        rows.append(mean.permute(1, 2, 3, 0).reshape(-1, mean.shape[0]))
        patches = clip.video.reshape(9, 16, 8, 24, 8, 3).mean((2, 4)) / 255
        grouped = np.concatenate([patches[:1], patches[1:].reshape(2, 4, 16, 24, 3).mean(1)])
        colours.append(torch.from_numpy(grouped.reshape(-1, 3)).float())
    x = torch.cat(rows)
    solution = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), torch.cat(colours)).solution
    return {"weight": [[round(v, 5) for v in row] for row in solution[:-1].tolist()],
            "bias": [round(v, 5) for v in solution[-1].tolist()]}  # fmt: skip


def export(recipe: Recipe, shop: Workshop, out: Path) -> dict:
    """Write the pipeline of the averaged weights, and that of image to video beside it; returns facts for the model card."""
    model = load_vae(recipe, shop)
    scale = latent_scale(recipe, shop)
    model.register_to_config(scaling_factor=scale)
    rgb = fit_latent_rgb(model, scale, seed=recipe.seed, clips=recipe.preview_clips, device=shop.device)
    pair = trained_denoiser(recipe, shop)
    recommended = {
        "num_inference_steps": recipe.recommended_steps,
        "guidance_scale": recipe.recommended_guidance,
        "fps": 8,
        "num_frames": 25,
        "height": world.HEIGHT,
        "width": world.WIDTH,
    }
    parts = {"vae": model, "transformer": pair["transformer"], "text_encoder": pair["text_encoder"]}
    if (shop.folder / "animator.safetensors").exists():
        both = begin_animator(recipe, shop, pair)
        load_average(both, shop.folder / "animator.safetensors")
        parts |= {"animator": both["transformer"], "transformer": with_input(recipe, both["transformer"], pictures=False)}
    save_pipeline(out, model, parts["transformer"], parts["text_encoder"], latent_rgb=rgb, recommended=recommended)
    if "animator" in parts:
        pictures = recommended | {"num_inference_steps": recipe.recommended_animator_steps}
        save_animator(out.with_name(f"{out.name}-i2v"), parts["animator"], out, recommended=pictures)
    facts = {
        "scaling_factor": scale,
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "recipe": asdict(recipe),
    }
    (shop.folder / "export.json").write_text(json.dumps(facts, indent=1))
    return facts
