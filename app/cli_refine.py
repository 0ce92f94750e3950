"""`sprocket refine "TEXT"`, and `--refine` of `sprocket generate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli_common import DataDir, Json, opened, say
from app.cli_loras import added
from engine.errors import InvalidRequest
from engine.refine import PURPOSES, Refinement


def refine_command(
    text: Annotated[str, typer.Argument(help="What the video should show, in your own words; any language with a chat model.")],
    backend: Annotated[str | None, typer.Option(help="pocket, endpoint or local; what fits the model when left out.")] = None,
    model: Annotated[str, typer.Option(help="The video model to write for.")] = "pocket",
    purpose: Annotated[str, typer.Option(help=f"One of {', '.join(PURPOSES)}.")] = "text-to-video",
    version: Annotated[int, typer.Option(help="0 the first answer, 1 another one, ...")] = 0,
    count: Annotated[int, typer.Option(min=1, max=8, help="So many versions, from --version on.")] = 1,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """A short wish as the long, concrete English description that a video model was trained on."""
    with opened(data_dir) as studio:
        found = [studio.refining.refine(text, model=model, backend=backend, purpose=purpose, version=version + number)
                 for number in range(count)]
    if as_json:
        print(json.dumps(found[0].to_json() if count == 1 else {"versions": [each.to_json() for each in found]}))
        return
    for each in found:
        _say_notes(each)
        print(each.text)


def refined(prompts: list[str], values: dict[str, Any], lora: list[str] | None, backend: str, from_image: bool,
            data_dir: Path | None) -> tuple[list[str], dict[str, Any], list[str]]:
    """(the prompt refined, the request's other values with where it came from, the LoRAs, by now in the studio) for `generate --refine`.

    Raises what refining raises, and InvalidRequest where one recipe could not say where several prompts came from.
    """
    if len(prompts) > 1:
        raise InvalidRequest("refine", f"is for one prompt, and {len(prompts)} are given. Refine each with `sprocket refine`, or make "
                                       "them one by one.")
    if values.get("wish") is not None:
        raise InvalidRequest("refine", "and wish are both given. A prompt that was refined already is not refined again; leave one out.")
    with opened(data_dir) as studio:
        loras = added(studio, lora)
        found = studio.refining.refine(prompts[0], model=values["model"], backend=None if backend == "auto" else backend,
                                       purpose="image-to-video" if from_image else "text-to-video", loras=[name for name, _ in loras])
    named = [f"{name}:{weight!r}" for name, weight in loras]
    _say_notes(found)
    say(f"Refined: {found.text}")
    if found.fallback:
        return prompts, values, named
    return [found.text], values | {"wish": found.original, "refiner": found.backend}, named


def _say_notes(found: Refinement) -> None:
    for note in found.notes:
        say(note)
    say(f"{found.tokens} of {found.max_tokens} tokens, by the {found.backend} refiner.")
