"""The `sprocket` command. Thin: every command builds values, calls the studio, prints.

    sprocket generate --prompt TEXT [...]     a clip, or several, in this process, no server needed, through the same history
    sprocket interpolate CLIP --fps 24        more frames for a clip or video file: smoother, or slowed down
    sprocket serve                            the studio in a browser
    sprocket dataset import | check ...       sets of clips to train on
    sprocket queue | history | models | loras list --json, and what else they offer
    sprocket train | lora                     train a LoRA; its file in other forms
    sprocket plan --model ID --budget 8GiB    how a clip would be made in that memory; no weights, no GPU
    sprocket refine "ball goes up"            the description a video model understands; `generate --refine` does both
    sprocket doctor                           what this machine has, and what is wrong with it

Exit codes: 0 done, 2 bad request (a name that is not there is one), 3 cannot fit this machine, 130 after Ctrl-C, 1 any other failure;
`train` besides 10 paused, 11 stopped, 12 blocked by a full disk. With `--json` one JSON object goes to standard output and everything for
people to standard error.
"""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from app.batches import variants
from app.cli_batch import clip_json, make_batch
from app.cli_common import DataDir, Json, ended
from app.cli_common import opened as _studio
from app.cli_common import print_list as _print_list
from app.cli_common import say as _say
from app.cli_common import settings_of as _settings
from app.cli_dataset import dataset_app
from app.cli_interpolate import interpolate_command
from app.cli_length import Length, read_keyframes
from app.cli_lora import lora_app
from app.cli_loras import added as _added_loras
from app.cli_loras import loras_app, stand_ins
from app.cli_models import models_app
from app.cli_published import add_commands as add_publishing
from app.cli_queue import queue_app
from app.cli_refine import refine_command, refined
from app.cli_start import Start, check_start, start_from
from app.cli_train import train_app
from app.cli_users import users_app
from app.errors import exit_code
from app.history.records import Clip, ClipQuery, JobState
from app.paths import is_folder, is_there
from app.plan_command import parse_bytes, plan_command
from app.studio import Studio
from engine.errors import InvalidRequest, ModelInvalid, ModelNotFound, SprocketError
from engine.events import Event, RanksRestarted, Resumed, StageStarted, StepDone
from engine.request import GenerationRequest
from engine.video.publish import storage_errors

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Make videos with open video-diffusion models, on your own machine.")
history_app = typer.Typer(no_args_is_help=True, help="Clips: list, show, restore, publish, rebuild.")
app.add_typer(queue_app, name="queue")
app.add_typer(history_app, name="history")
add_publishing(history_app)
app.add_typer(models_app, name="models")
app.add_typer(loras_app, name="loras")
app.add_typer(lora_app, name="lora")
app.add_typer(train_app, name="train")
app.add_typer(dataset_app, name="dataset")
app.add_typer(users_app, name="users")
app.command("plan")(plan_command)
app.command("refine")(refine_command)

MOST_NAME_BYTES = 240
"""Of a copy's file name: file systems have 255, and it is written under a longer one first."""
USAGE_ERRORS: Any = typer.BadParameter.__mro__[1]  # click's UsageError; which click it is, typer decides
def main() -> None:
    """Entry point of the console script: turns the error tree into exit codes."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger().handlers[0].setLevel(logging.WARNING)  # a job's own log takes what is below
    as_json = "--json" in sys.argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a prompt may hold what this terminal cannot show
    try:
        _run(as_json)
    except InvalidRequest as error:
        _fail(error, as_json, field=error.field, suggestion=error.suggestion)
    except (ModelNotFound, ModelInvalid) as error:
        _fail(error, as_json, field="model")
    except SprocketError as error:
        _fail(error, as_json)
    except OSError as error:  # a disk or folder that does not do what it should; never a traceback for that
        _fail(SprocketError(f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "") + "."), as_json)


def _run(as_json: bool) -> None:
    """The command. Wrong options are explained in a box for people, with `--json` as every other refusal."""
    if not as_json:
        app(standalone_mode=True)
        return
    try:
        code = app(standalone_mode=False)
    except USAGE_ERRORS as error:
        parameter = getattr(error, "param", None)
        _fail(InvalidRequest(parameter.name if parameter else "command line", error.format_message()), as_json,
              field=parameter.name if parameter else None, suggestion=None)
    except typer.Abort:
        _say("Stopped.")
        raise SystemExit(130) from None
    raise SystemExit(code if isinstance(code, int) else 0)


def _fail(error: SprocketError, as_json: bool, **details: Any) -> NoReturn:
    if as_json:
        print(json.dumps({"error": {"code": error.code, "message": str(error), **details}}))
    print(f"sprocket: {error}", file=sys.stderr)
    raise SystemExit(exit_code(error))


@app.command()
def generate(
    prompt: Annotated[list[str], typer.Option(help="What the video should show; several make several videos.")],
    negative: Annotated[str, typer.Option(help="What to steer away from.")] = "",
    model: Annotated[str, typer.Option(help="A name from `sprocket models list`, or a folder.")] = "pocket",
    seed: Annotated[int | None, typer.Option(help="0 to 2^63 - 1; drawn when left out.")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="N,N,...", help="One video for each.")] = None,
    count: Annotated[int | None, typer.Option(help="So many videos, each with a seed of its own.")] = None,
    frames: Annotated[int | None, typer.Option(help="The model's rule holds, e.g. 8k + 1.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance scale.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="dpm or ddim.")] = None,
    eta: Annotated[float | None, typer.Option(help="Fresh noise of a ddim step, 0 to 1.")] = None,
    guidance_kind: Annotated[str | None, typer.Option(help="constant, cosine or as-published.")] = None,
    cache: Annotated[str | None, typer.Option(help="Faster, not the same picture: first-block, pab, magcache, taylorseer; off.")] = None,
    cfg_gate: Annotated[float | None, typer.Option(help="Share of the steps, above 0 to 1, that run the negative prompt.")] = None,
    image: Annotated[str | None, typer.Option(metavar="FILE", help="First frame, for an image-to-video model.")] = None,
    video: Annotated[str | None, typer.Option(metavar="FILE", help="Video to change.")] = None,
    fit: Annotated[str | None, typer.Option(help="crop or pad an image or video of another shape.")] = None,
    strength: Annotated[float | None, typer.Option(help="How far a video may be changed, above 0 to 1.")] = None,
    extend: Annotated[str | None, typer.Option(metavar="CLIP", help="Id of a clip to go on from.")] = None,
    at: Annotated[int | None, typer.Option(help="Its frame to go on from, from 0; the last when left out.")] = None,
    profile: Annotated[str | None, typer.Option(help="fast, balanced or tiny: how much time may be traded for memory.")] = None,
    quality: Annotated[str | None, typer.Option(help="What may be lost for it: lossless, near-lossless or fast.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of the transformer: auto, bf16, fp16, fp32, int8, int8-dynamic, fp8, fp8-dynamic.")
                         ] = None,
    budget: Annotated[str | None, typer.Option(help="Memory of the device the job may use, e.g. 8GiB; all that is free.")] = None,
    device: Annotated[str | None, typer.Option(help="cuda or cpu; the GPU where there is one.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Length; key frames first, then frames between them.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second, 1 to 60, made the same way.")] = None,
    key_frames: Annotated[int | None, typer.Option(help="How many key frames; as few as the rate allows.")] = None,
    keyframe: Annotated[list[str] | None, typer.Option(metavar="INDEX=IMAGE", help="An image as a frame; first, middle, last.")] = None,
    parallel: Annotated[str | None, typer.Option(metavar="cfg=2,ulysses=2,ring=1", help="Several devices for one video.")] = None,
    lora: Annotated[list[str] | None, typer.Option(metavar="FILE[:WEIGHT]", help="LoRA to apply, -4 to 4; repeatable.")] = None,
    refine: Annotated[str | None, typer.Option(metavar="BACKEND", help="Refine the prompt first: auto, pocket, endpoint, local.")] = None,
    wish: Annotated[str | None, typer.Option(help="The words that the prompt was refined from; kept beside the clip.")] = None,
    refiner: Annotated[str | None, typer.Option(help="What refined them: pocket, endpoint or local.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also copy the clip to this file.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a clip, or several with one loaded model, in this process, without a server; they are in the same history."""
    values = {"negative": negative, "model": model, "frames": frames, "width": width, "height": height, "steps": steps,
              "guidance": guidance, "scheduler": scheduler, "eta": eta, "guidance_kind": guidance_kind, "fit": fit, "strength": strength,
              "profile": profile, "quality": quality, "precision": precision,
              "budget": None if budget is None else parse_bytes("budget", budget),
              "device": device, "cache": cache, "cfg_gate": cfg_gate, "parallel": parallel, "wish": wish, "refiner": refiner}
    length = Length(seconds, fps, key_frames, read_keyframes(keyframe))
    if refine is not None:
        prompt, values, lora = refined(prompt, values, lora, refine, image is not None or extend is not None, data_dir)
    each = variants(prompt, seed, seeds, count, _settings(data_dir).max_batch)
    _generate(values, each, lora, (image, video, extend, at), length, out, data_dir, as_json)


def _generate(values: dict[str, Any], each: list[tuple[str, int | None]], lora: list[str] | None, start: Start, length: Length,
              out: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """`each`: prompt and seed of every clip; `values`: the rest of their requests."""
    values |= length.values(values["frames"])
    for prompt, seed in each:
        check_start(values | {"prompt": prompt, "seed": seed, "loras": stand_ins(lora)}, *start)
    _check_out(out, len(each))
    started = time.monotonic()
    with _studio(data_dir) as studio:
        first = {"prompt": each[0][0], "seed": each[0][1], "loras": _added_loras(studio, lora)}
        request, made_from = start_from(studio, values | first | {"given": ()}, *start)
        request = length.applied(studio, request)
        if len(each) > 1:
            requests = [dataclasses.replace(request, prompt=prompt, seed=seed) for prompt, seed in each]
            make_batch(studio, requests, made_from, _Progress(), started, as_json)
            return
        forecast = studio.forecast(request)
        about = f"about {forecast.seconds:.0f} s, {forecast.basis}" if forecast.seconds else forecast.basis
        job = studio.submit(request, made_from=made_from, reserve=True)
        _say(f"Job {job.id} with {request.model}: {about}.")
        if length.asked:
            _say(f"  {forecast.notes[0]}")
        job = studio.run_here(job.id, _Progress())
        if job.state is not JobState.DONE or job.clip_id is None:
            raise ended(job)
        clip = studio.clip(job.clip_id)
        path = studio.clip_path(clip.id)
    if out is not None:
        path = _copy(path, out)
    _print_clip(clip, path, time.monotonic() - started, as_json)


def _check_out(out: Path | None, clips: int) -> None:
    """Refuses a target that cannot work before a minute of sampling, not after."""
    if out is None:
        return
    if clips > 1:
        raise InvalidRequest("out", f"is {str(out)!r}, one file, and {clips} clips are asked for. Leave it out; their paths are printed.")
    if len(os.fsencode(out.name)) > MOST_NAME_BYTES:
        raise InvalidRequest("out", f"has a file name of {len(os.fsencode(out.name)):,} bytes; at most {MOST_NAME_BYTES} are possible. "
                                    "Choose a shorter one.")
    if out.suffix.lower() != ".mp4":
        raise InvalidRequest("out", f"is {str(out)!r}; the clip is an mp4 file. Give it a name that ends in .mp4.")
    if is_folder(out) or not is_folder(out.parent):
        raise InvalidRequest("out", f"is {str(out)!r}; its folder does not exist or it is itself a folder. Choose a file "
                                    "in a folder that exists.")
    if not os.access(out.parent, os.W_OK):
        raise InvalidRequest("out", f"is {str(out)!r}; that folder cannot be written. Choose another.")


def _copy(source: Path, target: Path) -> Path:
    """A copy that is never half there: written beside the target under another name, then renamed over it."""
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    with storage_errors(target.parent):
        try:
            shutil.copyfile(source, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    return target


class _Progress:
    """Says stages and every fifth of the steps, one line each, so that a log stays readable."""

    def __init__(self) -> None:
        self._fifth = -1

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._fifth = -1
            _say(f"  {event.stage.value}")
        elif isinstance(event, Resumed):
            _say(f"  resumed from step {event.step} of {event.steps}")
        elif isinstance(event, RanksRestarted):
            _say(f"  started again, because {event.why}")
        elif isinstance(event, StepDone):
            fifth = event.step * 5 // event.steps
            if fifth > self._fifth:
                left = "" if event.eta_seconds is None else f", {event.eta_seconds:.0f} s left"
                _say(f"    {event.step} of {event.steps}{left}")
            self._fifth = fifth


def _print_clip(clip: Clip, path: Path, wall: float, as_json: bool) -> None:
    if as_json:
        print(json.dumps(clip_json(clip, path) | {"wall_seconds": round(wall, 3)}))
        return
    asked = {name: value for name, value in clip.recipe["request"].items()
             if value not in ("", None, []) and name not in ("schema_version", "loras")}
    asked |= {"lora": ", ".join(f"{each['file'] or each['name'][:12]}:{each['weight']:g}" for each in clip.recipe["loras"])
              } if clip.recipe.get("loras") else {}
    _say("Recipe:")
    for name, value in asked.items():
        _say(f"  {name:<15}{value}")
    _say(f"  {'made':<15}{clip.width} x {clip.height}, {clip.frames} frames at {clip.fps:g} fps in {wall:.1f} s")
    print(path)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 takes a free one.")] = None,
    listen: Annotated[bool, typer.Option("--listen", help="For other machines too; asks everybody to sign in.")] = False,
    share: Annotated[bool, typer.Option("--share", help="On the internet as long as this runs and gradio's relay keeps the address (up "
                                                        "to a week); asks everybody to sign in.")] = False,
    public: Annotated[bool, typer.Option("--i-know-this-is-public", help="Nobody signs in; whoever reaches it owns everything.")] = False,
    data_dir: DataDir = None,
) -> None:
    """The studio in a browser."""
    from app.serve import serve_from_settings

    host = "0.0.0.0" if listen and host is None else host
    serve_from_settings(_settings(data_dir, host=host, port=port), public=public, share=share)


@history_app.command("list")
def history_list(
    words: Annotated[str, typer.Option(help="Words of the prompt or the name.")] = "",
    page: Annotated[int, typer.Option(min=1)] = 1,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Clips, newest first, 24 a page."""
    with _studio(data_dir) as studio:
        found = studio.clips(ClipQuery(words=words, page=page))
        rows = [_clip_row(studio, clip) for clip in found.clips]
    _print_list("clips", rows, as_json, lambda r: f"{r['id']}  {r['seconds']:4.1f} s  {r['file']}  {r['prompt'][:60]}",
                empty='No clips yet. `sprocket generate --prompt "a red ball bounces over a meadow"` makes a first one.')


@history_app.command("show")
def history_show(clip_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """One clip with its whole recipe."""
    with _studio(data_dir) as studio:
        clip = studio.clip(clip_id)
        parents, children = studio.lineage(clip_id)
        row = _clip_row(studio, clip) | {"recipe": clip.recipe, "made_from": [c.id for c in parents],
                                         "made_into": [c.id for c in children]}
    print(json.dumps(row, indent=None if as_json else 2))


@history_app.command("restore")
def history_restore(
    source: Annotated[str, typer.Argument(help="A Sprocket mp4 or its .json; or the id of a clip, also one in the trash.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """The request that made a clip, ready for `generate`. A clip in the trash also comes back to the gallery."""
    with _studio(data_dir) as studio:
        if is_there(source):
            request = studio.request_from_file(Path(source))
        else:
            request = studio.clip_request(source)
            if studio.clip(source).trashed_at is not None:
                studio.untrash(source)
        gone, other = studio.missing_loras(source), studio.stand_in(source)
    if other:
        _say(other.strip())
    if gone:
        _say(f"Not in this studio, and needed to make this clip again: {', '.join(gone)}. `sprocket loras add FILE` takes a LoRA in.")
    if request.edits:
        _say(f"{len(request.edits)} of its key frames were edited, which `generate` has no option for: this line makes it without them. "
             "With --json the request has them.")
    if as_json:
        print(json.dumps({"request": request.to_json(), "missing_loras": gone}))
        return
    print("sprocket generate " + " ".join(_as_options(request)))


def _as_options(request: GenerationRequest) -> list[str]:
    import shlex

    values = {name: value for name, value in request.to_json().items()
              if value not in ("", None) and name not in ("schema_version", "loras", "given", "edits", "review")}
    return [*(f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in values.items()),
            *(f"--keyframe {index}={name}" for index, name in request.given),
            *(f"--lora {name}:{weight!r}" for name, weight in request.loras)]


@history_app.command("rebuild")
def history_rebuild(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Make the history again from the clips' own files; the old one is kept beside it."""
    from app.history.opening import rebuild

    found = rebuild(_settings(data_dir))
    if as_json:
        print(json.dumps({"clips": found}))
    else:
        _say(f"The history was made again from {found} clips.")


@app.command()
def doctor(data_dir: DataDir = None, as_json: Json = False) -> None:
    """What this machine has, and what is wrong with it. Exit code 1 if something is."""
    from app.doctor import as_json as findings_json
    from app.doctor import examine

    findings = examine(_settings(data_dir))
    report = findings_json(findings)
    if as_json:
        print(json.dumps(report))
    else:
        marks = {True: "ok  ", False: "BAD ", None: "    "}
        for finding in findings:
            print(f"{marks[finding.ok]}{finding.what:<16}{finding.detail}")
    if not report["ok"]:
        raise SystemExit(1)


app.command("interpolate")(interpolate_command(_check_out, _copy, _Progress))


def _clip_row(studio: Studio, clip: Clip) -> dict[str, Any]:
    row = dataclasses.asdict(clip)
    del row["recipe"]
    return row | {"path": str(studio.settings.media_dir / clip.file), "seconds": clip.frames / clip.fps}


if __name__ == "__main__":
    main()
