"""How well a pocket model does what it is told: `python -m bench.pocket_eval [--model assets/pocket-i2v]`.

Takes combinations that were never trained on, writes a caption for each, generates with the
stock pipeline, reads the clip back with classical vision (`pocket_vision`), and prints the
share that came out right. Also reconstructs held-out clips with the autoencoder. The model of
image to video is given the first frame of such a scene too, and is asked how well it kept it.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXPipeline
from PIL import Image

from bench.pocket_vision import Reading, read_clip
from engine.models.convolution import use_onednn
from training.pocket import world
from training.pocket.arithmetic import native
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
    kept_db: float | None = None
    """PSNR of the clip's first frame against the picture it was given."""


@dataclass(frozen=True)
class Task:
    """What to ask for. picture: uint8 (H, W, 3), for image to video."""

    prompt: str
    asked: Reading
    picture: np.ndarray | None = None


def held_out_picture(index: int) -> Task:
    """The first frame of a held-out scene, a caption that says how it goes on, and the truth."""
    scene = world.scene_at(SEED, index, "held-out", pair_share=0.0)
    subject = scene.subjects[0]
    return Task(caption(scene, np.random.default_rng((SEED, index))),
                Reading(subject.shape, subject.colour, scene.background, scene.motion),
                world.render(scene, 25, only=range(1)).video[0])  # fmt: skip


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


def generate(pipeline, tasks: list[Task], *, seed: int, steps: int, guidance: float, frames: int) -> np.ndarray:
    """uint8 (N, F, H, W, 3); clip n depends on seed + n and its task only."""
    pictures = [Image.fromarray(task.picture) for task in tasks if task.picture is not None]
    result = pipeline(
        **({"image": pictures} if pictures else {}),
        prompt=[task.prompt for task in tasks],
        num_frames=frames,
        num_inference_steps=steps,
        guidance_scale=guidance,
        max_sequence_length=pipeline.transformer.config.max_text_seq_length,
        generator=[torch.Generator().manual_seed(seed + n) for n in range(len(tasks))],
        output_type="np",
    )
    return np.rint(result.frames * 255).astype(np.uint8)


def evaluate(pipeline, *, clips: int, steps: int, guidance: float, frames: int, batch: int):
    """Yield (case, clip) for each held-out task of the pipeline's kind."""
    pictures = isinstance(pipeline, CogVideoXImageToVideoPipeline)
    for start in range(0, clips, batch):
        indices = range(start, min(start + batch, clips))
        tasks = [held_out_picture(i) if pictures else Task(*held_out_scene(i)) for i in indices]
        videos = generate(pipeline, tasks, seed=SEED + start, steps=steps, guidance=guidance, frames=frames)
        for task, video in zip(tasks, videos, strict=True):
            yield Case(task.prompt, task.asked, read_clip(video), _kept(task.picture, video[0])), video


def _kept(picture: np.ndarray | None, frame: np.ndarray) -> float | None:
    if picture is None:
        return None
    error = np.square(frame.astype(float) - picture).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


def scores(cases: list[Case]) -> dict[str, float]:
    """Share right of each attribute and of all four."""
    right = {a: [getattr(c.asked, a) == getattr(c.seen, a) for c in cases] for a in ATTRIBUTES}
    table = {a: float(np.mean(hits)) for a, hits in right.items()}
    table["all four"] = float(np.mean(np.all(list(right.values()), axis=0)))
    kept = [c.kept_db for c in cases if c.kept_db is not None]
    return table | ({"first frame kept, dB": float(np.mean(kept)), "worst kept, dB": min(kept)} if kept else {})


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
    kind = json.loads((asked.model / "model_index.json").read_text())["_class_name"]
    loader = CogVideoXImageToVideoPipeline if kind == "CogVideoXImageToVideoPipeline" else CogVideoXPipeline
    pipeline = loader.from_pretrained(asked.model, dtype=native())
    use_onednn(pipeline.vae)
    pipeline.set_progress_bar_config(disable=True)
    begun, cases, videos = time.monotonic(), [], []
    for case, video in evaluate(pipeline, clips=asked.clips, steps=steps, guidance=guidance, frames=asked.frames, batch=asked.batch):
        cases.append(case)
        videos.append(video)
    table = scores(cases)
    vae = reconstruction(pipeline.vae, asked.vae_clips) if asked.vae_clips else {}
    print(f"{asked.clips} held-out captions, {asked.frames} frames, {steps} steps, guidance {guidance:g}")
    for name, share in table.items():
        print(f"  {name:<22}" + (f"{share:6.2f}" if name.endswith("dB") else f"{share:7.1%}"))
    for name, value in vae.items():
        print(f"  vae {name:<18}{value:6.2f} dB")
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
