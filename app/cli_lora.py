"""`sprocket lora export|merge|info|push`: a LoRA's file in other forms, in its base, what it is, and onto the hub. Torch is loaded for the
former two only."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli_common import DataDir, Json, say, settings_of
from app.paths import is_file, is_there
from engine.errors import InvalidRequest
from engine.lora import model_layers, read_lora
from engine.models.catalogue import find
from engine.spec import read_spec

lora_app = typer.Typer(no_args_is_help=True, help="One LoRA file: other forms, merging, facts. The shelf of LoRAs is `sprocket loras`.")


@lora_app.command("info")
def info(file: Annotated[Path, typer.Argument(help="A LoRA as .safetensors.")], as_json: Json = False) -> None:
    """Rank, alpha, layers, trigger word and base of a file."""
    lora = read_lora(file)
    values: dict[str, Any] = {"file": file.name, "rank": lora.rank, "alpha": lora.alpha, "targets": list(lora.targets),
                              "layers": len(lora.layers), "numbers": lora.numbers, "dtype": lora.dtype, "bytes": lora.size,
                              "trigger": lora.trigger, "width": lora.width, "blocks": lora.blocks, "notes": list(lora.notes)}
    if as_json:
        print(json.dumps(values))
        return
    for name, value in values.items():
        print(f"{name:<10}{', '.join(map(str, value)) if isinstance(value, list) else value}")


@lora_app.command("export")
def export(file: Annotated[Path, typer.Argument(help="A LoRA as .safetensors, in any form that `sprocket loras add` takes.")],
           out: Annotated[Path, typer.Argument(help="The file to write.")],
           form: Annotated[str, typer.Option("--format", help="diffusers, kohya or comfyui.")] = "diffusers",
           rank: Annotated[int | None, typer.Option(help="Resize to this rank, by singular values.")] = None,
           dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32") -> None:
    """Write a LoRA in another form. Its strength stays what it is."""
    _check_new(out)
    from training.lora import export as forms

    layers, _lora, notes = forms.read_matrices(file)
    if rank is not None:
        layers, kept = forms.resized(layers, rank)
        say(f"rank {rank} keeps {kept:.1%} of the change.")
    forms.save_lora(out, layers, notes, form=form, dtype=dtype)
    say(f"{out} was written.")


@lora_app.command("merge")
def merge(file: Annotated[Path, typer.Argument(help="A LoRA as .safetensors.")],
          model: Annotated[str, typer.Option(help="The base: a name from `sprocket models list`, or a folder.")],
          out: Annotated[Path, typer.Option(help="Folder for the new model; must not exist.")],
          strength: Annotated[float, typer.Option(help="1 is the strength it was trained at.")] = 1.0, data_dir: DataDir = None) -> None:
    """Make a model with the LoRA in its weights: a folder in diffusers layout that Create, and anything else, loads."""
    if not math.isfinite(strength):
        raise InvalidRequest("strength", f"is {strength}; it must be a finite number, and 1 is as it was trained.", suggestion=1.0)
    spec = read_spec(find(model, models_dir=settings_of(data_dir).models_dir), model)
    lora = read_lora(file)
    known = model_layers(spec)
    foreign = next((name for name, layer in lora.layers.items() if known.get(name) != (layer.gives, layer.takes)), None)
    if foreign is not None:
        raise InvalidRequest("loras", f"changes {foreign}, which {spec.name} has not in that shape: it was made for another model.")
    _check_new(out)
    from training.lora.merge import merge_into

    merge_into(spec.path, file, out, strength)
    say(f"{out} is a model of its own now: `sprocket generate --model {out.resolve()}`.")


def _check_new(out: Path) -> None:
    if is_there(out):
        raise InvalidRequest("out", f"{out} is there already; nothing is ever written over.")


@lora_app.command("push")
def push(run: Annotated[str, typer.Argument(help="A run's id, or its folder.")],
         repo: Annotated[str, typer.Argument(help="owner/name on the hub; made where it is not there.")],
         public: Annotated[bool, typer.Option("--public", help="Make the repository public; it is private without this.")] = False,
         data_dir: DataDir = None) -> None:
    """Send a run's LoRA, its card and the clips the card shows to the Hugging Face hub."""
    from app.hub.push import push as send

    folder = Path(run) if is_file(Path(run) / "run.json") else settings_of(data_dir).training_dir / run
    if not is_file(folder / "run.json"):
        raise InvalidRequest("run", f"{run[:80]!r} is neither a run of this studio nor the folder of one.")
    typer.echo(send(folder, repo, private=not public))
