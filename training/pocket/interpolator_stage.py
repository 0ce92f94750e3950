"""Running stage 6: on a released image-to-video pipeline, whose weights stay as they are, to one adapter file beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from torch import Tensor
from transformers import T5EncoderModel

from engine.interpolate.adapter import FILE, Facts, load_adapter, read_facts, write_adapter
from engine.interpolate.stage_two import StageTwo
from engine.models.convolution import use_onednn
from engine.spec import read_spec

from . import denoiser
from .arithmetic import mixed
from .attention import BatchedAttention
from .interpolator import SCENES, SLOTS, Interpolation, draw_windows, interpolation_loss, load_frames, make_shard
from .models import build_scheduler
from .tokenizer import build_tokenizer
from .trainer import Curve, Schedule, TrainState, train

ADAM_ONLY = ("patch", "rate")


def run_interpolator(stage: Interpolation, released: Path, folder: Path, *, begin: Path | None = None, seed: int = 0, device: str = "cpu",
                     save_every: float = 90.0, until: int | None = None, say: Callable[[str], None] = print) -> None:
    """Encode what is not encoded yet, then train. `released`: the image-to-video pipeline; `folder`: of checkpoints; `begin`: an adapter
    to go on from, whichever weights it was trained on."""
    vae = AutoencoderKLCogVideoX.from_pretrained(released / "vae", torch_dtype=torch.float32).to(device).eval()
    use_onednn(vae)
    for number in range(stage.scenes // SCENES):
        make_shard(vae, folder, number, seed=seed, device=device)
        say(f"frames: {(number + 1) * SCENES}/{stage.scenes} scenes")
    scale = vae.config.scaling_factor
    del vae
    model, loss_at = _training(stage, released, folder, scale, begin, seed, device)
    state = TrainState(model, folder / "interpolator.safetensors", ADAM_ONLY)
    schedule = Schedule(stage.steps, stage.lr, warmup=15, cooldown=0.6, ema=0.98)
    curve = Curve(folder / "interpolator.jsonl", every=10)
    with model.installed():
        for progress in train(state, schedule, loss_at, save_every=save_every, until=until):
            curve.add(progress)


def _training(stage: Interpolation, released: Path, folder: Path, scale: float, begin: Path | None, seed: int, device: str):
    frames, tokenizer = load_frames(folder, stage.scenes), build_tokenizer()
    text_encoder = T5EncoderModel.from_pretrained(released / "text_encoder", torch_dtype=torch.float32).to(device).eval()
    model = build_stage_two(stage, released, seed, begin).to(device)
    transformer = model.base.to(device)
    transformer.set_attn_processor(BatchedAttention())
    alphas = build_scheduler().alphas_cumprod.float().to(device)
    head = transformer.config.attention_head_dim

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = draw_windows(frames, tokenizer, stage, scale, seed=seed, step=step).to(device)
        cos, sin = denoiser.rotary(batch.latents.shape[1], head_dim=head)
        with mixed(device):
            with torch.no_grad():
                text = text_encoder(batch.ids).last_hidden_state
            return interpolation_loss(model, transformer, alphas, batch, text, (cos.to(device), sin.to(device)))

    return model, loss_at


def build_stage_two(stage: Interpolation, released: Path, seed: int = 0, begin: Path | None = None) -> StageTwo:
    """Stage two in fp32 over the released transformer, which is frozen: that of the adapter `begin`, or a fresh one."""
    base = CogVideoXTransformer3DModel.from_pretrained(released / "transformer", torch_dtype=torch.float32).eval().requires_grad_(False)
    torch.manual_seed(seed + 6)
    if begin is not None:
        return load_adapter(begin, base, read_facts(begin), dtype=torch.float32).requires_grad_(True)
    channels = base.config.out_channels
    made = StageTwo(base, channels, rank=stage.rank, modulation_rank=stage.modulation_rank)
    return made.requires_grad_(True)


def export_interpolator(stage: Interpolation, released: Path, folder: Path, out: Path, *, before: int = 0) -> int:
    """Write the averaged weights as `out`/stage2.safetensors (bf16) for the model `released`; returns the bytes.

    `before`: steps of the adapter that was gone on from.
    """
    model = build_stage_two(stage, released)
    state = TrainState(model, folder / "interpolator.safetensors", ADAM_ONLY)
    state.use_average()
    out.mkdir(parents=True, exist_ok=True)
    facts = Facts(base=read_spec(released, released.name).fingerprint, layout="frames", slots=SLOTS, channels=model.channels,
                  rank=stage.rank, modulation_rank=stage.modulation_rank, trained_steps=before + state.step)
    write_adapter(out / FILE, model, facts)
    (out / FILE).chmod(0o644)
    lines = [json.loads(line) for line in (folder / "interpolator.jsonl").read_text().splitlines()]
    (out / "curve.json").write_text(json.dumps([{k: line[k] for k in ("step", "loss", "v_mse")} for line in lines]) + "\n")
    return (out / FILE).stat().st_size
