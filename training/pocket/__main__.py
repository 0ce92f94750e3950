"""`python -m training.pocket`: make the pocket model, from nothing to `assets/pocket`.

Stages are resumed where they stopped; run the same command again after a kill.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from engine.interpolate.adapter import FILE, read_facts
from training.refiner.recipe import make_refiner

from .card import write_card
from .interpolator_stage import export_interpolator, run_interpolator
from .recipe import Recipe, Workshop, export, extended, run_animator, run_decoder, run_denoiser, run_latents, run_reader, run_vae

STAGES = ("vae", "latents", "reader", "denoiser", "animator", "decoder", "export", "interpolator", "card", "refiner")


def say(text: str) -> None:
    print(text, flush=True)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.pocket", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".pocket"), help="checkpoints, cached latents and curves")
    parser.add_argument("--out", type=Path, default=Path("assets/pocket"), help="where the pipeline is written")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: what torch chooses")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument(
        "--extend",
        nargs=2,
        action="append",
        default=[],
        metavar=("STAGE", "STEPS"),
        help="add steps to the last phase of vae, decoder, denoiser or animator; a finished stage goes on from its checkpoint",
    )
    parser.add_argument("--released", type=Path, help="go on from the weights of this pipeline and of those beside it")
    parser.add_argument("--seed", type=int, default=0, help="of scenes and draws; another one where released weights go on")
    parser.add_argument("--save-every", type=float, default=90.0, help="seconds between checkpoints")
    return parser.parse_args(argv)


def _kept(path: Path, copy: Path) -> Path:
    """`copy` of a file that this run may write over: made once, so that a run that is begun again begins where it first did."""
    if not copy.exists():
        part = copy.with_suffix(".part")
        shutil.copyfile(path, part)
        part.replace(copy)
    return copy


def make_interpolator(asked: argparse.Namespace, recipe: Recipe) -> None:
    """The last stage stands on the exported image-to-video pipeline, and its one file lies beside it."""
    released, out = (asked.out.with_name(f"{asked.out.name}-{kind}") for kind in ("i2v", "stage2"))
    stage, begin, before = recipe.interpolation, None, 0
    if asked.released:
        begin = _kept(asked.released.with_name(f"{asked.released.name}-stage2") / FILE, asked.work / "begun-stage2.safetensors")
        before = read_facts(begin).trained_steps
    run_interpolator(stage, released, asked.work, begin=begin, seed=recipe.seed, device=asked.device, save_every=asked.save_every, say=say)
    size = export_interpolator(stage, released, asked.work, out, before=before)
    say(f"wrote the stage-two weights, {size / 1e6:.1f} MB")


def main(argv: list[str] | None = None) -> int:
    asked = parse(argv)
    if asked.threads:
        torch.set_num_threads(asked.threads)
    asked.work.mkdir(parents=True, exist_ok=True)
    recipe = replace(Recipe(), seed=asked.seed)
    for stage, steps in asked.extend:
        recipe = extended(recipe, stage, int(steps))
    shop = Workshop(asked.work, asked.device, asked.save_every, asked.released)
    run = {
        "vae": lambda: run_vae(recipe, shop),
        "latents": lambda: run_latents(recipe, shop, say),
        "reader": lambda: run_reader(recipe, shop),
        "denoiser": lambda: run_denoiser(recipe, shop),
        "animator": lambda: run_animator(recipe, shop),
        "decoder": lambda: run_decoder(recipe, shop),
        "export": lambda: say(f"wrote {asked.out}: {export(recipe, shop, asked.out)['parameters']}"),
        "interpolator": lambda: make_interpolator(asked, recipe),
        "card": lambda: write_card(recipe, asked.work, asked.out),
        "refiner": lambda: make_refiner(asked.work, asked.out.with_name(f"{asked.out.name}-refiner"), asked.save_every),
    }
    for stage in asked.stages:
        say(f"stage {stage}")
        run[stage]()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
