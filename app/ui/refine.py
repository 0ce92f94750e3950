"""Refine on the Create page: from the studio's refinements to the panel and the form, and what its buttons do.

The prompt's text box always says what the model will get. Beside it the form keeps (`kept`) the user's own words (`wish`), what
refined them (`refiner`), and here under REFINE what the panel shows. An answer is fetched by the page's own line of events, so
a slow server holds nothing up: `start` returns at once, the poll draws, and `refine_take` brings the text into the form.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from app.refining import VARIANTS, Progress
from app.ui.form import asked_of, start_of
from app.ui.html.refine import RefineView, refine_html
from app.ui.parts import OWNER, Changes
from engine.errors import InvalidRequest, SprocketError
from engine.refine import BACKENDS
from engine.refine.language import ENGLISH, language_of
from engine.request import GenerationRequest

if TYPE_CHECKING:
    from app.ui.actions import Click

REFINE = "refine"
"""Beside the kept fields: {'key', 'then', 'by', 'version', 'text', 'notes', 'tokens', 'versions', 'problem', 'skip'}."""
STILL = 0.25
"""Share of the refined text's words that a changed prompt must still have to count as made from the same wish."""


def shown_by(kept: object) -> dict[str, Any]:
    """What the panel keeps, whatever came along in `kept`."""
    beside = kept.get(REFINE) if isinstance(kept, Mapping) else None
    return dict(beside) if isinstance(beside, Mapping) else {}


def refine_panel(studio: Any, values: Mapping[str, Any], kept: object) -> str:
    """The panel's markup for what the form says."""
    said, beside = dict(kept) if isinstance(kept, Mapping) else {}, shown_by(kept)
    here = studio.refining.backends()
    backend = backend_of(studio, values, beside)
    usual: dict[str, Any] = {"backends": here if backend else (), "backend": backend, "then": beside.get("then", ""),
                             "key": beside.get("key", "")}
    if beside.get("problem"):
        return refine_html(RefineView(state="failed", problem=beside["problem"], **usual))
    if beside.get("key") and not beside.get("taken"):
        return refine_html(_view_of(studio, beside["key"], usual))
    if beside.get("versions"):
        return refine_html(RefineView(state="choose", wish=beside.get("wish", ""), versions=[each["text"] for each in beside["versions"]],
                                      notes=_common(beside["versions"]), **usual))
    if said.get("wish"):
        text = beside.get("text") or str(values.get("prompt") or "")
        return refine_html(RefineView(state="done", wish=said["wish"], text=text, notes=beside.get("notes", ()),
                                      tokens=beside.get("tokens", ""), language=language_line(said["wish"]), **usual))
    return refine_html(RefineView(**usual))


def language_line(wish: str) -> str:
    """Said where the user's words are in another language: the video model got English."""
    language = language_of(wish)
    return "" if language in (ENGLISH, "") else (f"You wrote in {language}. The video model understands English only, so it gets the "
                                                 "refined text.")


def backend_of(studio: Any, values: Mapping[str, Any], beside: Mapping[str, Any]) -> str:
    """The backend that Refine will ask; '' where none is set up."""
    try:
        return studio.refining.backend_for(str(values.get("model") or ""), beside.get("by") or None)
    except SprocketError:
        return ""


def _view_of(studio: Any, key: str, usual: Mapping[str, Any]) -> RefineView:
    try:
        found: Progress = studio.refining.look(key, owner=OWNER)
    except SprocketError as error:
        return RefineView(state="failed", problem=str(error), **{**usual, "key": ""})
    return RefineView(state="running", text=found.so_far, by=found.backend, fetched=found.ended, **usual)


def poll_token(studio: Any, kept: object) -> str:
    """Changes when the panel does while a refinement is on its way; '' when none is."""
    beside = shown_by(kept)
    key = beside.get("key")
    if not key or beside.get("taken"):
        return ""
    try:
        return f"{key}:{studio.refining.look(key, owner=OWNER).seq}"
    except SprocketError:
        return f"{key}:gone"


# ---- what the buttons do


def refine(click: Click) -> Changes:
    """Refine what is typed."""
    return begin(click.studio, click.parts, click.values, click.kept)


def refine_another(click: Click) -> Changes:
    """The next version of the same wish."""
    return begin(click.studio, click.parts, click.values, click.kept, version=int(shown_by(click.kept).get("version", 0)) + 1)


def refine_three(click: Click) -> Changes:
    """Three versions to choose from."""
    beside = shown_by(click.kept)
    first = int(beside.get("version", -1)) + 1 if click.kept.get("wish") or beside.get("versions") else 0
    return begin(click.studio, click.parts, click.values, click.kept, count=VARIANTS, version=first)


def begin(studio: Any, parts: Any, values: Mapping[str, Any], kept: Mapping[str, Any], *, count: int = 1, version: int = 0,
          then: str = "") -> Changes:
    """Starts a refinement of the user's words: those kept as the wish, as long as the prompt is still made from them. What is
    wrong at once is said in the panel."""
    beside = shown_by(kept)
    wish = wish_of(values, kept)
    # The prompt's own new words count where it was typed anew.
    by, model = beside.get("by"), str(values.get("model") or "")
    fresh = {key: value for key, value in kept.items() if key not in ("wish", "refiner", REFINE)}
    asked = asked_of(kept)
    try:
        if not wish.strip():
            raise InvalidRequest("prompt", "is empty. Type a few words first, for example: ball goes up fast, beach.")
        if values.get("per_line") is True and (lines := sum(bool(line.strip()) for line in wish.splitlines())) > 1:
            raise InvalidRequest("prompt", f"has {lines} lines for a video each, and refining makes one text of them. Refine and generate "
                                           "them one by one, or turn off “One video for each line”.")
        progress = studio.refining.start(wish, owner=OWNER, count=count, version=version, model=model, backend=by or None,
                                         purpose="image-to-video" if start_of(kept) == "i2v" else "text-to-video",
                                         loras=[name for name, _ in asked.get("loras", ())], images=_start_image(studio, kept))
    except SprocketError as error:
        return _redrawn(studio, parts, values, {**kept, REFINE: {"by": by, "problem": _plain(error), "then": then}})
    state = {"by": by, "key": progress.id, "then": then, "version": version + count - 1, "wish": wish,
             "typed": str(values.get("prompt") or "")}
    if progress.ended:
        return take(studio, parts, values, {**fresh, REFINE: state}, progress)
    before = {name: kept[name] for name in ("wish", "refiner") if name in kept}
    return {**_redrawn(studio, parts, values, {**fresh, **before, REFINE: state}), parts.timer: gr.Timer(active=True)}


def refine_take(click: Click) -> Changes:
    """The page has seen that an answer is there: it comes into the form."""
    beside = shown_by(click.kept)
    if not beside.get("key") or beside.get("taken") or beside["key"] != click.text("key"):
        return {}
    try:
        found = click.studio.refining.look(beside["key"], owner=OWNER)
    except SprocketError as error:
        return _redrawn(click.studio, click.parts, click.values, {**click.kept, REFINE: {**beside, "key": "", "problem": _plain(error)}})
    return take(click.studio, click.parts, click.values, click.kept, found) if found.ended else {}


def take(studio: Any, parts: Any, values: Mapping[str, Any], kept: Mapping[str, Any], found: Progress) -> Changes:
    """What becomes of an answer: the prompt, versions to choose from, or what went wrong."""
    beside = shown_by(kept)
    common = {name: beside.get(name) for name in ("by", "version", "wish")}
    if found.error:
        return _redrawn(studio, parts, values, {**kept, REFINE: {**common, "problem": found.error, "then": beside.get("then", "")}})
    versions = [each.to_json() for each in found.done]
    good = [each for each in versions if not each["fallback"]]
    if not good:
        note = versions[0]["notes"][0]
        return _redrawn(studio, parts, values, {**kept, REFINE: {**common, "problem": note, "then": beside.get("then", "")}})
    # Words that were typed while it worked are not painted over: the answer is offered beside them.
    moved = not beside.get("then") and str(values.get("prompt") or "") != beside.get("typed", values.get("prompt") or "")
    if len(versions) > 1 or moved:
        return _redrawn(studio, parts, values, {**kept, REFINE: {**common, "versions": good, "moved": moved}})
    return _used(studio, parts, values, kept, good[0], common | {"key": beside["key"], "then": beside.get("then", "")})


def refine_use(click: Click) -> Changes:
    """One of the versions was chosen."""
    beside, index = shown_by(click.kept), click.text("index")
    versions = beside.get("versions") or []
    if not (index.isascii() and index.isdigit() and int(index) < len(versions)):
        return {}
    common = {name: beside.get(name) for name in ("by", "version", "wish")}
    return _used(click.studio, click.parts, click.values, click.kept, versions[int(index)], common)


def _used(studio: Any, parts: Any, values: Mapping[str, Any], kept: Mapping[str, Any], found: Mapping[str, Any],
          common: Mapping[str, Any]) -> Changes:
    """The refined text is the prompt now; the wish stays beside it."""
    state = {**common, "taken": True, "text": found["text"], "notes": found["notes"],
             "tokens": f"{found['tokens']} of {found['max_tokens']} tokens"}
    after = {**kept, "wish": found["original"], "refiner": found["backend"], REFINE: state}
    return {parts.form["prompt"]: found["text"], **_redrawn(studio, parts, {**values, "prompt": found["text"]}, after)}


def refine_undo(click: Click) -> Changes:
    """Back to the user's own words; they stand in the prompt already where they were changed while an answer was made."""
    beside = shown_by(click.kept)
    wish = str(click.values.get("prompt") or "") if beside.get("moved") else click.kept.get("wish") or beside.get("wish")
    after = {name: value for name, value in click.kept.items() if name not in ("wish", "refiner")}
    after[REFINE] = {"by": beside.get("by")}
    prompt = {click.parts.form["prompt"]: wish} if wish else {}
    return {**prompt, **_redrawn(click.studio, click.parts, {**click.values, "prompt": wish}, after)}


def refine_stop(click: Click) -> Changes:
    with contextlib.suppress(SprocketError):  # it ended by itself
        click.studio.refining.stop(click.text("key"), owner=OWNER)
    return refine_hush(click)


def refine_hush(click: Click) -> Changes:
    """What went wrong was read; a text that was refined before is shown again."""
    return _redrawn(click.studio, click.parts, click.values, {**click.kept, REFINE: {"by": shown_by(click.kept).get("by")}})


def refine_skip(click: Click) -> Changes:
    """Refining failed, and the clip is wanted all the same: Generate follows, with the words as they stand."""
    state = {"by": shown_by(click.kept).get("by"), "skip": str(click.values.get("prompt") or ""), "then": "generate", "taken": True,
             "key": f"skip-{hash(str(click.values.get('prompt'))) & 0xFFFFFFFF:x}-{shown_by(click.kept).get('version', 0)}"}
    return _redrawn(click.studio, click.parts, click.values, {**click.kept, REFINE: state})


def refine_by(click: Click) -> Changes:
    """Another refiner was chosen."""
    if click.text("by") not in BACKENDS:
        return {}
    return _redrawn(click.studio, click.parts, click.values, {**click.kept, REFINE: {**shown_by(click.kept), "by": click.text("by")}})


def reset(click: Click, prompt: str) -> Changes:
    """Other words stand in the prompt now, and were refined from none."""
    after = {name: value for name, value in click.kept.items() if name not in ("wish", "refiner", REFINE)}
    after[REFINE] = {"by": shown_by(click.kept).get("by")}
    return _redrawn(click.studio, click.parts, {**click.values, "prompt": prompt}, after)


# ---- what Generate asks


def before_generate(studio: Any, parts: Any, values: Mapping[str, Any], kept: Mapping[str, Any]) -> Changes | None:
    """What Generate does first where prompts are always refined: None if this one is, or is not to be."""
    if values.get("always_refine") is not True:
        return None
    prompt, beside = str(values.get("prompt") or ""), shown_by(kept)
    if not prompt.strip() or (kept.get("wish") and is_still(beside.get("text"), prompt)) or beside.get("skip") == prompt:
        return None
    return begin(studio, parts, values, kept, then="generate")


def checked_wish(values: Mapping[str, Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """`kept` without a wish that the prompt is no longer made from: it was undone by hand, or other words were typed."""
    prompt = str(values.get("prompt") or "")
    if kept.get("wish") and (prompt.strip() == kept["wish"].strip() or not is_still(shown_by(kept).get("text"), prompt)):
        return {name: value for name, value in kept.items() if name not in ("wish", "refiner")}
    return dict(kept)


def wish_of(values: Mapping[str, Any], kept: Mapping[str, Any]) -> str:
    """The user's words: what a refined prompt came from, else what is typed."""
    prompt = str(values.get("prompt") or "")
    wish = kept.get("wish") or shown_by(kept).get("wish")
    beside = shown_by(kept)
    if beside.get("versions"):
        return prompt
    return str(wish) if wish and kept.get("wish") and is_still(beside.get("text"), prompt) else prompt


def restored(request: GenerationRequest) -> dict[str, Any]:
    """What the form keeps beside a request whose prompt was refined, so that the panel says so."""
    return {REFINE: {"text": request.prompt, "taken": True, "by": request.refiner}} if request.wish else {}


def is_still(refined: object, prompt: str) -> bool:
    """Whether `prompt` is the refined text, as it came or changed. A text that came with a restored clip is always."""
    if not isinstance(refined, str) or not refined:
        return True
    before, now = (set(re.findall(r"\w+", text.casefold())) for text in (refined, prompt))
    return bool(now) and len(before & now) >= STILL * len(before)


def _start_image(studio: Any, kept: Mapping[str, Any]) -> tuple[bytes, ...]:
    """The picture a clip starts from, small, for a model that can look at it."""
    name = asked_of(kept).get("image") if start_of(kept) == "i2v" else None
    if not name or not studio.settings.refiner_vision_model:
        return ()
    return (studio.input_preview(name, width=512, height=512, fit="pad"),)


def _redrawn(studio: Any, parts: Any, values: Mapping[str, Any], kept: dict[str, Any]) -> Changes:
    return {parts.kept: kept, parts.refine: refine_panel(studio, values, kept)}


def _common(versions: list[dict[str, Any]]) -> list[str]:
    """Notes that hold for every version."""
    return [note for note in versions[0]["notes"] if all(note in each["notes"] for each in versions)]


def _plain(error: SprocketError) -> str:
    words = error.message if isinstance(error, InvalidRequest) else str(error)
    return f"The prompt {words}" if isinstance(error, InvalidRequest) and error.field in ("prompt", "text") else str(error)


REFINE_ACTIONS: tuple[Callable[[Click], Changes], ...] = (
    refine, refine_another, refine_three, refine_take, refine_use, refine_undo, refine_stop, refine_hush, refine_skip, refine_by)
