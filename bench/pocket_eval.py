"""How well the pocket model does what it is told: `python -m bench.pocket_eval`.

Takes combinations that were never trained on, writes a caption for each, generates with the
stock pipeline, reads the clip back with classical vision (`pocket_vision`), and prints the
share that came out right. Also reconstructs held-out clips with the autoencoder.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import CogVideoXPipeline

from bench.pocket_vision import Reading, read_clip
from training.pocket import world
from training.pocket.captions import caption
from training.pocket.latents import to_tensor

ATTRIBUTES = ("colour", "shape", "background", "motion")
SEED = 2026


@dataclass(frozen=True)
class Case:
    """One held-out scene, what was asked and what was seen."""

    prompt: str
    asked: Reading
    seen: Reading


def held_out_scene(index: int) -> tuple[str, Reading]:
    """(caption, truth) of held-out combination number `index`, in a fixed shuffled order."""
    keys = world.combinations("held-out")
    order = np.random.default_rng(SEED).permutation(len(keys))
    shape, colour, background, motion = keys[order[index % len(keys)]]
    rng = np.random.default_rng((SEED, index))
    speed = world.SPEEDS[rng.integers(2)]
    subject = world.Subject(shape, colour, 0.0, 0.0, 0.0)
    scene = world.Scene((subject,), background, motion, speed, 0.0, 0, (0.0, 0.0, 0.0))
    return caption(scene, rng), Reading(shape, colour, background, motion)


def generate(pipeline: CogVideoXPipeline, prompts: list[str], *, seed: int, steps: int, guidance: float, frames: int) -> np.ndarray:
    """uint8 (N, F, H, W, 3); clip n depends on seed + n and its prompt only."""
    result = pipeline(
        prompts,
        num_frames=frames,
        num_inference_steps=steps,
        guidance_scale=guidance,
        max_sequence_length=pipeline.transformer.config.max_text_seq_length,
        generator=[torch.Generator().manual_seed(seed + n) for n in range(len(prompts))],
        output_type="np",
    )
    return np.rint(result.frames * 255).astype(np.uint8)


def evaluate(pipeline: CogVideoXPipeline, *, clips: int, steps: int, guidance: float, frames: int, batch: int):
    """Yield (case, clip) for each held-out caption."""
    for start in range(0, clips, batch):
        scenes = [held_out_scene(i) for i in range(start, min(start + batch, clips))]
        videos = generate(pipeline, [s[0] for s in scenes], seed=SEED + start, steps=steps, guidance=guidance, frames=frames)
        for (prompt, asked), video in zip(scenes, videos, strict=True):
            yield Case(prompt, asked, read_clip(video)), video


def scores(cases: list[Case]) -> dict[str, float]:
    """Share right of each attribute and of all four."""
    right = {a: [getattr(c.asked, a) == getattr(c.seen, a) for c in cases] for a in ATTRIBUTES}
    table = {a: float(np.mean(hits)) for a, hits in right.items()}
    table["all four"] = float(np.mean(np.all(list(right.values()), axis=0)))
    return table


@torch.no_grad()
def reconstruction(vae, clips: int, frames: int = 25) -> dict[str, float]:
    """Mean PSNR in dB of held-out clips: over the frame, and over the subject's pixels."""
    whole, inside = [], []
    for index in range(clips):
        clip = world.render(world.scene_at(SEED, index, "held-out"), frames)
        video = to_tensor(clip.video).to(vae.dtype)
        output = vae.decode(vae.encode(video).latent_dist.mode()).sample.float().clamp(-1, 1)
        error = ((output - to_tensor(clip.video)) / 2).square()[0].permute(1, 2, 3, 0).numpy()
        weight = clip.mask[..., None] / 255.0
        whole.append(-10 * np.log10(error.mean()))
        inside.append(-10 * np.log10((error * weight).sum() / (3 * weight.sum())))
    return {"psnr": float(np.mean(whole)), "psnr_subject": float(np.mean(inside))}


def contact_sheet(videos: list[np.ndarray], path: Path, shown: tuple[float, ...] = (0, 0.25, 0.5, 0.75, 1)) -> None:
    """One row a clip, first to last frame."""
    from PIL import Image

    rows = [np.concatenate([v[round(p * (len(v) - 1))] for p in shown], axis=1) for v in videos]
    Image.fromarray(np.concatenate(rows)).save(path)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.pocket_eval", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("assets/pocket"))
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--vae-clips", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--steps", type=int, help="default: what the model recommends")
    parser.add_argument("--guidance", type=float, help="default: what the model recommends")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: what torch chooses")
    parser.add_argument("--json", type=Path, help="also write the scores and every case here")
    parser.add_argument("--sheet", type=Path, help="also write a picture of the first 16 clips here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    asked = parse(argv)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    recommended = json.loads((asked.model / "sprocket.json").read_text())["recommended"]
    steps = asked.steps or recommended["num_inference_steps"]
    guidance = asked.guidance or recommended["guidance_scale"]
    pipeline = CogVideoXPipeline.from_pretrained(asked.model, dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    begun, cases, videos = time.monotonic(), [], []
    for case, video in evaluate(pipeline, clips=asked.clips, steps=steps, guidance=guidance, frames=asked.frames, batch=asked.batch):
        cases.append(case)
        videos.append(video)
    table = scores(cases)
    vae = reconstruction(pipeline.vae, asked.vae_clips) if asked.vae_clips else {}
    print(f"{asked.clips} held-out captions, {asked.frames} frames, {steps} steps, guidance {guidance:g}")
    for name, share in table.items():
        print(f"  {name:<12}{share:8.1%}")
    for name, value in vae.items():
        print(f"  vae {name:<14}{value:6.2f} dB")
    print(f"  {(time.monotonic() - begun) / asked.clips:.1f} s a clip")
    if asked.json:
        record = {"clips": asked.clips, "frames": asked.frames, "steps": steps, "guidance": guidance}
        record |= {"scores": table, "vae": vae, "cases": [asdict(c) for c in cases]}
        asked.json.write_text(json.dumps(record, indent=1) + "\n")
    if asked.sheet:
        contact_sheet(videos[:16], asked.sheet)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
