"""`sprocket dataset`: sets of clips to train on.

    sprocket dataset import PATH|OWNER/NAME [--name N] [--caption-column C] [--video-column V] ...
    sprocket dataset example                       a small set of a thing the embedded model never saw
    sprocket dataset list | check D | caption D | cache D --model M | delete D
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli_common import DataDir, Json, opened, print_list, say
from app.datasets import Import, checked_source
from app.studio import LOCAL, Studio
from engine.errors import InvalidRequest
from engine.hardware import detect
from training.data import edits
from training.data.buckets import Rules
from training.data.checks import Report
from training.data.records import Dataset
from training.data.sources import Wish

dataset_app = typer.Typer(no_args_is_help=True, help="Sets of clips to train on: import, check, caption, cache, list, delete.")
Named = Annotated[str, typer.Argument(metavar="DATASET", help="Its id, or its name.")]
Model = Annotated[str, typer.Option(help="The model it is to be trained on.")]
Shapes = Annotated[str, typer.Option(help="native: one size; aspect: also turned, square, 4:3 and 3:4.")]
Frames = Annotated[int | None, typer.Option("--frames", "--max-num-frames", help="Most frames of a clip; the model's own.")]
Height = Annotated[int | None, typer.Option(help="Pixels; the model's own.")]
Width = Annotated[int | None, typer.Option(help="Pixels; the model's own.")]
Fps = Annotated[float | None, typer.Option(help="Frames a second the clips are read at; the model's own.")]


@dataset_app.command("import")
def dataset_import(
    source: Annotated[str, typer.Argument(help="A folder, list, zip or video; or owner/name of a dataset on the hub.")],
    name: Annotated[str, typer.Option(help="What it is called; the source's name.")] = "",
    caption_column: Annotated[str, typer.Option(help="Column of the captions, or the list of them (prompts.txt).")] = "",
    video_column: Annotated[str, typer.Option(help="Column of the paths, or the list of them (videos.txt).")] = "",
    root: Annotated[Path | None, typer.Option("--root", "--instance-data-root", help="Where relative paths begin.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a dataset on the hub: branch, tag or commit.")] = None,
    id_token: Annotated[str, typer.Option("--prefix", "--id-token", help="A word put before every caption, with a space.")] = "",
    picture_fps: Annotated[float, typer.Option(help="Rate at which folders of pictures are shown.")] = 8.0,
    fit: Annotated[str, typer.Option(help="crop or pad clips of another shape.")] = "crop",
    skip_start: Annotated[int, typer.Option("--skip-start", "--skip-frames-start", help="Frames passed over at the start of each.")] = 0,
    skip_end: Annotated[int, typer.Option("--skip-end", "--skip-frames-end", help="Frames passed over at the end of each.")] = 0,
    long: Annotated[str, typer.Option(help="Clips longer than the model's: cut into pieces, or only the first frames.")] = "pieces",
    held_out: Annotated[float, typer.Option(help="Share kept from training, 0 to 0.5.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Which clips those are.")] = 0,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Take a set of clips in. Its files stay where and as they are; what cannot be used is listed with the reason."""
    def settled(dataset: Dataset) -> Dataset:
        changed = edits.with_reading(edits.with_prefix(dataset, id_token), fit, skip_start, skip_end, long)
        return edits.with_split(changed, held_out, seed)

    wanted = Import(checked_source(source), name, Wish(caption_column, video_column, root, picture_fps), revision)
    with opened(data_dir) as studio:
        settled(_blank())  # a wrong option is told before a minute of looking
        dataset = studio.datasets.add(wanted, owner=LOCAL, told=_progress("clips looked at"))
        dataset = studio.datasets.change(dataset.id, settled, owner=LOCAL)
    _print(dataset, as_json)


def _blank() -> Dataset:
    return Dataset(id="0" * 12, owner=LOCAL, name="new", source="", layout="", created_at=0.0, changed_at=0.0, clips=())


@dataset_app.command("example")
def dataset_example(data_dir: DataDir = None, as_json: Json = False) -> None:
    """A set of 25 clips of crescents, drawn now: a thing the embedded model has no word and no picture for."""
    with opened(data_dir) as studio:
        dataset = studio.datasets.example(owner=LOCAL, told=_progress("clips looked at"))
    _print(dataset, as_json)


@dataset_app.command("list")
def dataset_list(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Datasets of this studio, newest first."""
    with opened(data_dir) as studio:
        rows = [_summary(dataset) for dataset in studio.datasets.list(owner=LOCAL)]
    print_list("datasets", rows, as_json,
               lambda row: f"{row['id']}  {row['name'][:40]:<40}  {row['clips']} clips, {row['rejected']} refused",
               empty="No datasets yet. `sprocket dataset import FOLDER` takes one in; `sprocket dataset example` makes one.")


@dataset_app.command("check")
def dataset_check(dataset: Named, model: Model = "pocket", shapes: Shapes = "native", frames: Frames = None, height: Height = None,
                  width: Width = None, fps: Fps = None, data_dir: DataDir = None, as_json: Json = False) -> None:
    """What is wrong with it for a model: buckets, captions, twins, scenes, stillness. Nothing is changed."""
    with opened(data_dir) as studio:
        found = studio.datasets.find(dataset, owner=LOCAL)
        report, rules = studio.datasets.check(found, model, **_wish(shapes, frames, height, width, fps))
    if as_json:
        print(json.dumps(_report(found, report, rules)))
        return
    for line in _report_lines(found, report, rules):
        print(line)


@dataset_app.command("caption")
def dataset_caption(
    dataset: Named,
    clip: Annotated[str | None, typer.Option(help="Id of a clip, for --text or --describe.")] = None,
    text: Annotated[str | None, typer.Option(help="The caption of --clip.")] = None,
    find: Annotated[str | None, typer.Option(help="Words to replace in all captions, by --replace.")] = None,
    replace: Annotated[str, typer.Option(help="What --find becomes; nothing takes it out.")] = "",
    prefix: Annotated[str | None, typer.Option("--prefix", "--id-token", help="A word before every caption; '' takes it away.")] = None,
    describe: Annotated[bool, typer.Option("--describe", help="Ask the vision endpoint, for --clip or for all without one.")] = False,
    prompt: Annotated[str | None, typer.Option(help="What --describe asks.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Change captions in the set. The files they came from stay as they are."""
    if (text is None) is not (clip is None) and not describe:
        raise InvalidRequest("text" if text is None else "clip", "is missing: --clip ID --text WORDS go together.")
    if text is None and find is None and prefix is None and not describe:
        raise InvalidRequest("text", "is missing: say --clip ID --text WORDS, --find A --replace B, --prefix WORD or --describe.")
    with opened(data_dir) as studio:
        found = studio.datasets.find(dataset, owner=LOCAL)
        shelf, changed = studio.datasets, 0
        if clip is not None and text is not None:
            found = shelf.change(found.id, lambda now: edits.with_caption(now, clip, text), owner=LOCAL)
            changed += 1
        if find is not None:
            found, many = _replaced(studio, found, find, replace)
            changed += many
        if prefix is not None:
            found = shelf.change(found.id, lambda now: edits.with_prefix(now, prefix), owner=LOCAL)
            changed = len(found.clips)
        if describe:
            found, many = _described(studio, found, clip, prompt)
            changed += many
    print(json.dumps(_summary(found) | {"changed": changed})) if as_json else say(f"{changed} captions of {found.name} changed.")


def _replaced(studio: Studio, found: Dataset, find: str, by: str) -> tuple[Dataset, int]:
    many = edits.replaced(found, find, by)[1]
    return studio.datasets.change(found.id, lambda now: edits.replaced(now, find, by)[0], owner=LOCAL), many


def _described(studio: Studio, found: Dataset, clip: str | None, prompt: str | None) -> tuple[Dataset, int]:
    after, failed = studio.datasets.describe(found.id, studio.datasets.describer(), owner=LOCAL, clips=[clip] if clip else None,
                                             prompt=prompt, told=_progress("clips described"))
    for clip_id, reason in failed:
        say(f"{clip_id}: {reason}")
    before = {each.id: (each.caption, each.said_by) for each in found.clips}
    return after, sum(before.get(each.id) != (each.caption, each.said_by) for each in after.clips)


@dataset_app.command("cache")
def dataset_cache(dataset: Named, model: Model = "pocket", shapes: Shapes = "native", frames: Frames = None, height: Height = None,
                  width: Width = None, fps: Fps = None,
                  device: Annotated[str | None, typer.Option(help="cpu or cuda; the one a run here would use.")] = None,
                  dtype: Annotated[str | None, typer.Option(help="fp32 or bf16, arithmetic of the encoders; a run's here.")] = None,
                  data_dir: DataDir = None, as_json: Json = False) -> None:
    """Encode clips and captions for a model now; training would do it first. What is there already is kept. A run reads clips at the
    model's own length and rate, in its own size, or with `train --shapes aspect` in the sizes of --shapes aspect; what is encoded otherwise
    is read by no run."""
    for field, value, known in (("device", device, ("cpu", "cuda")), ("dtype", dtype, ("fp32", "bf16"))):
        if value is not None and value not in known:
            raise InvalidRequest(field, f"is {value[:20]!r}. Use one of {', '.join(known)}.", suggestion=known[0])
    from training.lora.base import usual_precision  # torch, which encoding loads anyway

    machine = detect(device)
    device, dtype = device or machine.device, dtype or usual_precision(machine)  # else a run would find nothing here that it can use
    with opened(data_dir) as studio:
        found = studio.datasets.find(dataset, owner=LOCAL)
        told = {"captions": _progress("captions encoded"), "clips": _progress("clips encoded")}
        built = studio.datasets.encode(found, model, device=device, dtype=dtype, progress=lambda what, done, of: told[what](done, of),
                                       **_wish(shapes, frames, height, width, fps))
    cached = built.cached
    for line in (*built.repaired, *(f"{origin}: {reason}" for origin, reason in cached.left)):
        say(line)
    if as_json:
        print(json.dumps({"digest": cached.digest, "model": cached.model, "train": len(cached.train), "held_out": len(cached.held_out),
                          "texts": built.texts, "clips": built.clips, "repaired": list(built.repaired),
                          "left": [{"origin": origin, "reason": reason} for origin, reason in cached.left]}))
        return
    print(f"{len(cached.train)} clips to train on, {len(cached.held_out)} held out; {built.clips} clips and {built.texts} captions encoded "
          f"now, in {dtype}. Set {cached.digest[:12]}.")


@dataset_app.command("delete")
def dataset_delete(dataset: Named, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Remove a set and what was encoded of it. The files it was made from stay."""
    with opened(data_dir) as studio:
        gone = studio.datasets.delete(studio.datasets.find(dataset, owner=LOCAL).id, owner=LOCAL)
    print(json.dumps({"deleted": gone.id})) if as_json else say(f"{gone.name} was deleted. Its files stay where they are.")


# ---- words

def _wish(shapes: str, frames: int | None, height: int | None, width: int | None, fps: float | None) -> dict[str, Any]:
    if (height is None) is not (width is None):
        raise InvalidRequest("height" if height is None else "width", "is missing: --height and --width go together.")
    return {"shapes": shapes, "frames": frames, "size": None if height is None or width is None else (height, width), "fps": fps}


def _progress(what: str) -> Callable[[int, int], None]:
    def told(done: int, of: int) -> None:
        if sys.stderr.isatty() or done == of:
            print(f"\r{done} of {of} {what}", end="" if done < of else "\n", file=sys.stderr, flush=True)

    return told


def _summary(dataset: Dataset) -> dict[str, Any]:
    splits = list(dataset.splits().values())
    return {"id": dataset.id, "name": dataset.name, "source": dataset.source, "layout": dataset.layout, "clips": len(dataset.clips),
            "rejected": len(dataset.rejections), "train": splits.count("train"), "held_out": splits.count("held-out"),
            "prefix": dataset.prefix}


def _print(dataset: Dataset, as_json: bool) -> None:
    if as_json:
        print(json.dumps(_summary(dataset) | {"rejections": [dataclasses.asdict(each) for each in dataset.rejections],
                                              "notes": list(dataset.notes)}))
        return
    for each in dataset.rejections:
        say(f"refused: {each.origin}: {each.reason}")
    for note in dataset.notes:
        say(note)
    say(f"{dataset.name}: {len(dataset.clips)} clips from {dataset.layout}, {len(dataset.rejections)} refused.")
    print(dataset.id)


def _report(dataset: Dataset, report: Report, rules: Rules) -> dict[str, Any]:
    where = {each.clip.id: each.bucket for each in report.placed}
    clips = [{"id": clip.id, "origin": clip.origin, "caption": dataset.text(clip), "tokens": report.tokens.get(clip.id),
              "split": report.splits.get(clip.id), "bucket": dataclasses.astuple(where[clip.id]) if clip.id in where else None,
              "used": clip.used, "problems": [dataclasses.asdict(each) for each in report.problems.get(clip.id, ())]}
             for clip in dataset.clips]
    return _summary(dataset) | {
        "model": report.model, "fps": rules.fps, "token_limit": report.token_limit, "trainable": report.trainable, "clips_checked": clips,
        "buckets": [dataclasses.asdict(row) for row in report.rows], "messages": [list(each) for each in report.messages],
        "rejections": [dataclasses.asdict(each) for each in dataset.rejections]}


def _report_lines(dataset: Dataset, report: Report, rules: Rules) -> list[str]:
    lines = [f"{dataset.name}: {len(dataset.clips)} clips, {len(dataset.rejections)} refused, {report.trainable} to train {report.model} "
             f"on, at {rules.fps:g} frames a second."]
    lines += [f"{words}" for _, words in report.messages]
    lines += [f"bucket {row.bucket!s:<18} {row.train:>4} train {row.held_out:>3} held out   {row.seconds:.2f} s"
              + (f", pieces of {row.clips} clips" if row.train + row.held_out > row.clips else "")
              + (f", {row.cut} longer ones lose their end" if row.cut else "") for row in report.rows]
    for clip in dataset.clips:
        lines += [f"{clip.id}  {clip.origin}: {each.text}" for each in report.problems.get(clip.id, ())]
    return lines + [f"refused  {each.origin}: {each.reason}" for each in dataset.rejections]
