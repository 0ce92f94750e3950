"""The Train page's sets: what it shows, and what its buttons do. All that comes from a browser is checked where it is used."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.datasets import Import, checked_source
from app.errors import NotAllowed, NotFound
from app.ui.address import Address
from app.ui.html.common import empty, link
from app.ui.html.dataset import SetView, percent, set_html, shelf_html
from app.ui.parts import OWNER, Changes
from app.ui.tunnel import is_shared
from app.ui.uploads import folder_of, uploaded
from engine.errors import InvalidRequest, SprocketError
from engine.lines import one_line
from training.data import edits
from training.data.buckets import SHAPES
from training.data.files import MAX_NAME_BYTES
from training.data.records import MAX_NAME_CHARS, Dataset
from training.data.sources import Wish

if TYPE_CHECKING:
    from app.ui.actions import Click

MAX_FILES = 500
MAX_FILE_NAME = 120


def train_html(studio: Any, at: Address, said: str = "") -> str:
    """The page for an address: all sets, or one of them."""
    shelf = studio.datasets
    pending = shelf.work.list(owner=OWNER)
    if not at.set:
        return shelf_html(shelf.list(owner=OWNER), pending, local=is_local(studio.settings.host), said=said)
    try:
        return set_html(view_of(studio, at), pending, said)
    except NotFound:
        return empty("No such dataset", "It was deleted, was never here, or belongs to someone else.",
                     action=link("Show all datasets", Address(view="train").href()))
    except SprocketError as error:
        return empty("This dataset cannot be shown", str(error), action=link("Show all datasets", Address(view="train").href()))


def view_of(studio: Any, at: Address) -> SetView:
    """Raises NotFound, DatasetDamaged, ModelNotFound, ModelInvalid."""
    dataset = studio.datasets.get(at.set, owner=OWNER)
    names = tuple(spec.name for spec in studio.models())
    model = at.model if at.model in names else "pocket" if "pocket" in names or not names else names[0]
    report, rules = studio.datasets.check(dataset, model, shapes=at.shapes if at.shapes in SHAPES else "native")
    return SetView(dataset, report, rules, names, _describes(studio), at)


def _describes(studio: Any) -> bool:
    try:
        studio.datasets.describer()
    except NotAllowed:
        return False
    return True


def train_token(studio: Any) -> str:
    """Changes whenever the page would look different."""
    return str(studio.datasets.token(owner=OWNER))


def is_local(host: str) -> bool:
    """Whether only people of this machine reach the server: then its folders may be named."""
    if os.environ.get("SPACE_HOST") or is_shared():
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# ---- what the buttons do

def dataset_import(click: Click) -> Changes:
    """A folder, list or zip of this machine, or a dataset on the hub."""
    def begin() -> None:
        if not is_local(click.studio.settings.host):
            raise NotAllowed("Folders of the server can only be named on the machine itself. Send the files instead.")
        columns = click.text("caption_column").strip(), click.text("video_column").strip()
        wish = Wish(*columns, picture_fps=_number(click, "picture_fps", 8.0))
        click.studio.datasets.start(Import(checked_source(click.text("source")), wish=wish), owner=OWNER)

    return _done(click, begin, at=Address(view="train"))


def dataset_take(click: Click) -> Changes:
    """Files have come in (`uploads.py`): {'files': [{'upload': token, 'name': ...}, ...]}."""
    def begin() -> None:
        folder, name = _gathered(click)
        click.studio.datasets.start(Import("files from your browser", name, files=folder), owner=OWNER)

    # Sending may take minutes, and another page may be open by then: that one stays.
    return _done(click, begin, at=Address(view="train") if click.at.view == "train" else None)


def _gathered(click: Click) -> tuple[Path, str]:
    """(a folder with the files under their own names, a name for the set). Raises InvalidRequest."""
    incoming, said = folder_of(click.studio.settings), click.said.get("files")
    files = [each for each in said[:MAX_FILES + 1] if isinstance(each, Mapping)] if isinstance(said, list) else []
    if not 1 <= len(files) <= MAX_FILES:
        raise InvalidRequest("files", f"are {len(files):,}; 1 to {MAX_FILES} come in at once. Pack more into one zip.")
    folder = incoming / f"{secrets.token_hex(16)}.set"
    folder.mkdir(mode=0o700)
    try:
        for each in files:
            path, name = uploaded(incoming, each.get("upload")), safe_name(each.get("name"))
            if path is None:
                raise InvalidRequest("files", f"{name!r} is not here any more. Choose the files again.")
            if (folder / name).exists():
                raise InvalidRequest("files", f"{name!r} is there twice. Give each file a name of its own.")
            path.rename(folder / name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    first = safe_name(files[0].get("name"))
    return folder, Path(first).stem[:MAX_NAME_CHARS].strip() if len(files) == 1 else f"{len(files)} files"


def safe_name(text: object) -> str:
    """The last part of a file's name as a browser says it, without anything a file system minds."""
    name = one_line(PurePosixPath(str(text).replace("\\", "/")).name)[-MAX_FILE_NAME:]
    kept = "".join(char if char.isalnum() or char in " ._-()[]" else "_" for char in name).strip(" .")
    while len(kept.encode()) > MAX_NAME_BYTES:  # 120 Chinese characters are 360 bytes
        kept = kept[1:]
    return kept.strip(" .") or "file"


def dataset_untaken(click: Click) -> Changes:
    """A file did not get here; the browser says why."""
    return {click.parts.train: train_html(click.studio, Address(view="train"), click.text("say")[:400])}


def dataset_example(click: Click) -> Changes:
    return _done(click, lambda: click.studio.datasets.start_example(owner=OWNER), at=Address(view="train"))


def dataset_stop(click: Click) -> Changes:
    return _done(click, lambda: click.studio.datasets.work.stop(click.text("work"), owner=OWNER))


def dataset_delete(click: Click) -> Changes:
    return _done(click, lambda: click.studio.datasets.delete(click.text("set"), owner=OWNER), at=Address(view="train"))


def dataset_rename(click: Click) -> Changes:
    return _changed(click, lambda now: edits.with_name(now, click.text("name")))


def dataset_prefix(click: Click) -> Changes:
    return _changed(click, lambda now: edits.with_prefix(now, click.text("prefix")))


def dataset_replace(click: Click) -> Changes:
    return _changed(click, lambda now: edits.replaced(now, click.text("find"), click.text("by"))[0])


def dataset_caption(click: Click) -> Changes:
    return _changed(click, lambda now: edits.with_caption(now, click.text("clip"), click.text("caption")))


def dataset_use(click: Click) -> Changes:
    return _changed(click, lambda now: edits.with_use(now, [click.text("clip")], click.text("value") == "1"))


def dataset_reading(click: Click) -> Changes:
    """Fit, skipping and the split, which stand in one form."""
    def edit(now: Dataset) -> Dataset:
        read = edits.with_reading(now, click.text("fit") or None, _whole(click, "skip_start"), _whole(click, "skip_end"),
                                  click.text("long") or None)
        same = click.text("held_out") == percent(now.held_out)  # which may be rounded
        return edits.with_split(read, now.held_out if same else _number(click, "held_out", 0.0) / 100, _whole(click, "seed"))

    return _changed(click, edit)


def dataset_split(click: Click) -> Changes:
    """A clip of several scenes becomes its scenes."""
    return _done(click, lambda: click.studio.datasets.split_scenes(click.text("set"), click.text("clip"), owner=OWNER))


def dataset_describe(click: Click) -> Changes:
    return _done(click, lambda: click.studio.datasets.start_describing(click.text("set"), owner=OWNER))


def _number(click: Click, field: str, without: float) -> float:
    """What a number field says; `without` where it is empty. Raises InvalidRequest."""
    text = click.text(field).strip()
    try:
        value = float(text) if text else without
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 1e15:
        raise InvalidRequest(field, f"is {text[:20]!r}, which is no number.")
    return value


def _whole(click: Click, field: str) -> int:
    """0 where it is empty. Raises InvalidRequest."""
    text = click.text(field).strip()
    if re.fullmatch(r"-?[0-9]{1,30}", text):
        return int(text)  # as a float it would be rounded
    value = _number(click, field, 0.0)
    if value != int(value):
        raise InvalidRequest(field, f"is {text[:20]!r}, which is no whole number.")
    return int(value)


def _changed(click: Click, edit: Callable[[Dataset], Dataset]) -> Changes:
    return _done(click, lambda: click.studio.datasets.change(click.text("set"), edit, owner=OWNER))


def _done(click: Click, wish: Callable[[], object], at: Address | None = None) -> Changes:
    """Does it, and shows the page as it is then, with the poll running. What is refused is said on the page until something else is
    clicked."""
    parts, said, place = click.parts, "", at or click.at
    try:
        wish()
    except SprocketError as error:
        said, place = str(error), click.at
    token = train_token(click.studio)  # before the page is drawn: what changes in between is drawn by the next poll
    return {parts.train: train_html(click.studio, place, said), parts.at: place.href(), parts.timer: gr.Timer(active=True),
            parts.seen: {"train": token, "train said": said}}


DATASET_ACTIONS: tuple[Callable[[Click], Changes], ...] = (
    dataset_import, dataset_take, dataset_untaken, dataset_example, dataset_stop, dataset_delete, dataset_rename, dataset_prefix,
    dataset_replace, dataset_caption, dataset_use, dataset_reading, dataset_split, dataset_describe,
)
