"""The Train page's first two steps: sets of clips, and their captions.

    shelf_html      all sets, what is being imported, and the ways to make one
    set_html        one set: what lands where, every clip with what is wrong with it, what was refused     (step 'dataset')
                    captions: find and replace, the word before all, every caption to edit                 (step 'captions')

No text in a set is trusted: captions and file names come from anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.dataset_work import Pending
from app.hub.words import amount
from app.ui.address import Address
from app.ui.html.common import ago, button, empty, esc, link, short
from app.ui.uploads import MAX_UPLOAD_BYTES
from training.data.buckets import SHAPES, Rules
from training.data.checks import Problem, Report
from training.data.records import Clip, Dataset

PER_PAGE = 36
SHAPE_WORDS = {"native": "One size, the model’s own", "aspect": "Also turned, square, 4:3, 3:4"}
SHOWN = (("", "All clips"), ("problems", "With a problem"), ("held-out", "Held out"), ("unused", "Left out"))
ACCEPT = ".zip,.mp4,.mov,.m4v,.mkv,.webm,.avi,.txt,.caption,.json,.jsonl,.csv,.tsv,.parquet"
STEPS = (("dataset", "Dataset"), ("captions", "Captions"), ("settings", "Settings"))
"""(what an address calls it, what people do)."""


@dataclass(frozen=True, slots=True)
class SetView:
    """One set with all that a page says of it."""

    dataset: Dataset
    report: Report
    rules: Rules
    models: tuple[str, ...]
    describes: bool
    """Whether a vision endpoint is set up."""
    at: Address


# ---- all sets

def shelf_html(sets: Sequence[Dataset], pending: Sequence[Pending], *, local: bool, said: str = "") -> str:
    """`local`: folders of this machine may be named; `said`: why the last wish was refused."""
    told = f'<p class="banner bad" role="alert">{esc(said)}</p>' if said else ""
    cards = "".join(_set_card(each) for each in sets)
    works = "".join(_pending(each) for each in pending)
    shelf = f'<ul class="sets">{works}{cards}</ul>' if cards or works else _none()
    return (
        f'<header class="page-head"><h1 class="page-title">Train</h1><span class="quiet">{_many(len(sets), "dataset")}</span></header>'
        f'{told}<div class="set-new">{_drop()}<div class="set-ways">{_path_form() if local else ""}{_example()}</div></div>{shelf}'
    )


def _drop() -> str:
    return (
        f'<button type="button" class="dropzone set-drop" data-act="choose_set" data-accept="{ACCEPT}" data-most="{MAX_UPLOAD_BYTES}">'
        "<b>Drop or choose clips to learn from</b><span>Videos with a .txt of the same name each, a table, or zips of them.</span>"
        f"<small>Up to {amount(MAX_UPLOAD_BYTES)} a file. 25 or more clips of 3 to 10 s teach a concept.</small>"
        '<span class="set-progress" role="status"></span></button>'
    )


def _path_form() -> str:
    return (
        '<form class="filters set-path" data-act="dataset_import" data-busy="1"><label class="search"><span class="set-label">Or a '
        "folder, list or zip on this machine, or a hub id</span>"
        '<input name="source" placeholder="/videos/my-set  or  owner/name" maxlength="1000" required autocomplete="off" spellcheck="false" '
        'autocapitalize="off"></label><button class="btn" type="submit">Import</button>'
        '<details class="set-more"><summary>Columns and rates</summary><div>'
        '<label>Caption column<input name="caption_column" maxlength="200" placeholder="found by itself" autocomplete="off"></label>'
        '<label>Video column<input name="video_column" maxlength="200" placeholder="found by itself" autocomplete="off"></label>'
        '<label>Picture folders, per second<input name="picture_fps" type="number" min="0.1" max="240" step="any" placeholder="8"></label>'
        "</div></details></form>"
    )


def _example() -> str:
    return (
        '<div class="set-example"><p><b>Just trying it out?</b> 25 small clips of crescents, a thing the embedded model has never seen.</p>'
        f'{button("Make the example", "dataset_example", kind="small")}</div>'
    )


def _none() -> str:
    return empty("No datasets yet", "A LoRA learns a thing, a style or a motion from your own clips. They stay where they are; nothing "
                                    "is written to them.")


def _pending(work: Pending) -> str:
    share = 100 * work.done / work.of if work.of else 0
    if work.error:
        dismiss = button("Dismiss", "dataset_stop", kind="small", work=work.id)
        body = f'<p class="model-problem" role="alert">{esc(work.error)}</p>{dismiss}'
    else:
        words = f"{work.what}: {work.done} of {_many(work.of, 'clip')}" if work.of else f"{work.what}…"
        body = (f'<div class="bar"><i style="width:{share:.1f}%"></i></div><p class="job-line">{esc(words)}</p>'
                + button("Stop", "dataset_stop", kind="small", work=work.id))
    return f'<li class="set set-pending"><h3>{esc(short(work.name, 60))}</h3>{body}</li>'


def _set_card(dataset: Dataset) -> str:
    shown = [clip for clip in dataset.used][:4]
    posters = "".join(f'<img src="{poster_url(dataset, clip)}" alt="" loading="lazy">' for clip in shown)
    posters += '<span class="set-blank"></span>' * (4 - len(shown))
    refused = f' · <span class="set-refused">{len(dataset.rejections)} refused</span>' if dataset.rejections else ""
    return (
        f'<li class="set"><a href="{Address(view="train", set=dataset.id).href()}" data-act="go"><span class="set-posters">{posters}</span>'
        f'<h3>{esc(short(dataset.name, 60))}</h3><p class="job-line">{_many(len(dataset.clips), "clip")}{refused} · '
        f"{esc(ago(dataset.created_at))}</p></a></li>"
    )


def poster_url(dataset: Dataset, clip: Clip) -> str:
    return f"/media/datasets/{dataset.id}/{clip.id}.webp"


# ---- one set

def set_html(view: SetView, pending: Sequence[Pending] = (), said: str = "") -> str:
    """One set, at the step the address names."""
    dataset, at = view.dataset, view.at
    told = f'<p class="banner bad" role="alert">{esc(said)}</p>' if said else ""
    works = "".join(_pending(each) for each in pending if each.dataset == dataset.id)
    body = _captions(view) if at.step == "captions" else _clips(view)
    return (
        f'<nav class="crumbs" aria-label="Back">{link("← All datasets", Address(view="train").href(), kind="inline")}</nav>'
        f'{_set_head(view)}{steps_html(at)}{told}{f"<ul class=sets>{works}</ul>" if works else ""}{body}'
    )


def _set_head(view: SetView) -> str:
    dataset = view.dataset
    rename = (
        f'<details class="rename"><summary>Rename or delete</summary><form data-act="dataset_rename" data-set="{dataset.id}"><label>'
        f'<span class="sr">Name of this set</span><input name="name" value="{esc(dataset.name)}" maxlength="80" required '
        f'autocomplete="off">'
        '</label><button class="btn small" type="submit">Save</button>'
        + button("Delete this set", "dataset_delete", kind="quiet-bad small", set=dataset.id, view="train",
                 sure=f"Delete “{short(dataset.name, 40)}”?",
                 why="The set and what was encoded of it are deleted. Your own files stay where they are.", yes="Delete")
        + "</form></details>"
    )
    source = f"{_many(len(dataset.clips), 'clip')} from {dataset.layout}, {dataset.source}"
    title = f'<h1 class="page-title">{esc(short(dataset.name, 80))}</h1>'
    return f'<header class="set-head">{title}<p class="quiet">{esc(source)}</p>{rename}</header>'


def steps_html(at: Address) -> str:
    """Where one is on the way from clips to a LoRA."""
    here = at.step or "dataset"
    items = "".join(
        f'<li><a href="{esc(at.href(step=step, sheet=1, show=""))}" data-act="go"{" aria-current=step" if step == here else ""}>'
        f"<span>{number}</span>{word}</a></li>" for number, (step, word) in enumerate(STEPS, 1))
    return f'<nav class="train-steps" aria-label="Steps"><ol>{items}</ol></nav>'


def _messages(report: Report) -> str:
    rows = ((" bad" if level == "bad" else "", words) for level, words in report.messages)
    return "".join(f'<p class="banner{kind}" role="status">{esc(words)}</p>' for kind, words in rows)


def _clips(view: SetView) -> str:
    dataset, report = view.dataset, view.report
    notes = "".join(f'<p class="banner">{esc(note)}</p>' for note in dataset.notes)
    return (
        f'{_messages(report)}{notes}<div class="set-top">{_buckets(view)}{_reading(view)}</div>{_refused(dataset)}'
        f'{_filters(view)}{_grid(view, _chosen(view))}'
    )


def _buckets(view: SetView) -> str:
    """The table of what lands where."""
    report, rules = view.report, view.rules
    rows = "".join(
        f"<tr><td>{row.bucket.frames}</td><td>{row.bucket.width} × {row.bucket.height}</td><td>{row.seconds:.1f} s</td><td>{row.train}</td>"
        f"<td>{row.held_out}</td></tr>" for row in report.rows)
    cut = sum(row.cut for row in report.rows)
    longer = f'<p class="quiet">Of {_many(cut, "longer clip")} the first frames are taken.</p>' if cut else ""
    pieces, whole = sum(row.train + row.held_out for row in report.rows), sum(row.clips for row in report.rows)
    longer += f'<p class="quiet">Long clips are cut: {pieces} pieces of {_many(whole, "clip")}.</p>' if pieces > whole else ""
    heads = "".join(f"<th>{word}</th>" for word in ("Frames", "Size", "Lasts", "Train", "Held out"))
    body = (f'<table class="buckets"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{longer}' if rows
            else '<p class="quiet">No clip can be trained on as it is.</p>')
    stopped = sum(report.stopped(clip.id) for clip in view.dataset.used)
    out = f'<p class="quiet">{_many(stopped, "clip")} will not be used until what is marked red is put right.</p>' if stopped else ""
    how = f'<p class="quiet">Read by time, at {rules.fps:g} frames a second.</p>'
    return f'<section class="set-box"><h2>What lands where</h2>{how}{body}{out}</section>'


def _reading(view: SetView) -> str:
    """How the clips are read, and for which model."""
    dataset, at = view.dataset, view.at
    models = "".join(_option(name, name, view.report.model) for name in view.models)
    shapes = "".join(_option(each, SHAPE_WORDS[each], at.shapes or "native") for each in SHAPES)
    hidden = f'<input type="hidden" name="view" value="train"><input type="hidden" name="set" value="{dataset.id}">'
    fits = _option("crop", "Fill the frame, cut what hangs over", dataset.fit) + _option("pad", "Show all, with black bars", dataset.fit)
    longs = _option("pieces", "Cut into pieces", dataset.long) + _option("first", "Take the first frames", dataset.long)
    number = ('<label>{0}<input name="{1}" type="number" min="{2}" max="{3}" step="{4}" value="{5}" inputmode="decimal"></label>').format
    return (
        f'<section class="set-box"><h2>How clips are read</h2><form class="filters" data-act="search">{hidden}'
        f'<label>For the model<select name="model">{models}</select></label><label>Sizes<select name="shapes">{shapes}</select></label>'
        f'</form>'
        f'<form class="filters set-reading" data-act="dataset_reading" data-set="{dataset.id}"><label>Another shape<select name="fit">'
        f'{fits}'
        f'</select></label><label>Longer clips<select name="long">{longs}</select></label>'
        f'{number("Skip at start", "skip_start", 0, 1000, 1, dataset.skip_start)}'
        f'{number("Skip at end", "skip_end", 0, 1000, 1, dataset.skip_end)}'
        f'{number("Held out, %", "held_out", 0, 50, "any", percent(dataset.held_out))}<label>Seed<input name="seed" pattern="[0-9]*" '
        f'maxlength="19" value="{dataset.seed}" inputmode="numeric" autocomplete="off"></label>'  # browsers round long numbers
        '<button class="btn small" type="submit">Apply</button></form><p class="quiet">Skipped frames count at each file’s own rate. '
        'Held-out '
        "clips are never trained on: their loss tells learning from learning by heart.</p></section>"
    )


def percent(share: float) -> str:
    """As the form has it: 12.5 of 0.125."""
    return f"{100 * share:g}"


def _option(value: str, label: str, chosen: str) -> str:
    return f'<option value="{esc(value)}"{" selected" if value == chosen else ""}>{esc(short(label, 50))}</option>'


def _refused(dataset: Dataset) -> str:
    if not dataset.rejections:
        return ""
    rows = "".join(f"<li><b>{esc(short(each.origin, 90))}</b> <span>{esc(each.reason)}</span></li>" for each in dataset.rejections[:200])
    more = f"<li>and {len(dataset.rejections) - 200} more</li>" if len(dataset.rejections) > 200 else ""
    opened = " open" if not dataset.clips or len(dataset.rejections) <= 4 else ""
    return (f'<details class="set-rejected"{opened}><summary>{len(dataset.rejections)} not taken in, and why</summary><ul>{rows}{more}</ul>'
            "</details>")


def _filters(view: SetView) -> str:
    at, counts = view.at, {value: len(_matching(view, value)) for value, _ in SHOWN}
    links = "".join(
        f'<a href="{esc(at.href(show=value, sheet=1))}" data-act="go"{" aria-current=true" if at.show == value else ""}>{word} '
        f"<span>{counts[value]}</span></a>" for value, word in SHOWN if counts[value] or value == at.show)
    return f'<nav class="set-filter" aria-label="Which clips">{links}</nav>'


def _matching(view: SetView, show: str) -> list[Clip]:
    report, clips = view.report, view.dataset.clips
    if show == "problems":
        return [clip for clip in clips if report.problems.get(clip.id)]
    if show == "held-out":
        return [clip for clip in clips if report.splits.get(clip.id) == "held-out"]
    if show == "unused":
        return [clip for clip in clips if not clip.used]
    return list(clips)


def _chosen(view: SetView) -> list[Clip]:
    """The clips of this sheet."""
    found, start = _matching(view, view.at.show), (view.at.sheet - 1) * PER_PAGE
    return found[start:start + PER_PAGE]


def _grid(view: SetView, clips: Sequence[Clip]) -> str:
    if not clips:
        return '<p class="all-done">No clip is of that kind.</p>'
    return f'<ul class="grid set-grid">{"".join(_card(view, clip) for clip in clips)}</ul>{pages_html(view)}'


def pages_html(view: SetView) -> str:
    """To the sheets before and after."""
    total = -(-len(_matching(view, view.at.show)) // PER_PAGE)
    if total <= 1:
        return ""
    sheet = view.at.sheet
    back = link("← Back", view.at.href(sheet=sheet - 1)) if sheet > 1 else '<span class="btn off" aria-disabled="true">← Back</span>'
    more = link("More →", view.at.href(sheet=sheet + 1)) if sheet < total else '<span class="btn off" aria-disabled="true">More →</span>'
    return f'<nav class="pages" aria-label="Pages">{back}<span>Page {sheet} of {total}</span>{more}</nav>'


def _picture(view: SetView, clip: Clip) -> str:
    """The poster; pointing at it plays the clip."""
    held = '<span class="gone">Held out</span>' if view.report.splits.get(clip.id) == "held-out" else ""
    bad = " set-stopped" if view.report.stopped(clip.id) else ""
    part = f"#t={clip.begin:.3f}" + (f",{clip.end:.3f}" if clip.end is not None else "") if clip.begin or clip.end is not None else ""
    play = f' data-play="/media/datasets/{view.dataset.id}/{clip.id}.mp4{part}"' if clip.kind == "video" else ""
    return (
        f'<a class="card" href="{esc(view.at.href(step="captions", show=""))}" data-act="go" tabindex="-1" aria-hidden="true"{play}>'
        f'<span class="poster{bad}{"" if clip.used else " set-unused"}"><img src="{poster_url(view.dataset, clip)}" alt="" '
        f'loading="lazy">{held}'
        f'<span class="length">{clip.length:.1f} s</span></span></a>'
    )


def _card(view: SetView, clip: Clip) -> str:
    dataset, problems = view.dataset, view.report.problems.get(clip.id, ())
    use = (button("Leave out", "dataset_use", kind="small", set=dataset.id, clip=clip.id, value="0") if clip.used
           else button("Use again", "dataset_use", kind="small", set=dataset.id, clip=clip.id, value="1"))
    several = clip.looks is not None and clip.looks.cuts
    split = button("Split into scenes", "dataset_split", kind="small", set=dataset.id, clip=clip.id) if several else ""
    words = esc(short(dataset.text(clip), 110)) or '<span class="quiet">no caption</span>'
    rate = f"{clip.fps:.3g} fps" + (", varies" if clip.variable else "")
    return (
        f'<li class="set-clip" data-clip="{clip.id}">{_picture(view, clip)}<p class="set-words">{words}</p>{_problems(problems)}'
        f'<p class="card-line" title="{esc(clip.origin)}">{clip.width} × {clip.height} · {rate} · {esc(short(clip.origin, 46))}</p>'
        f'<div class="set-actions">{split}{use}</div></li>'
    )


def _problems(problems: Sequence[Problem]) -> str:
    if not problems:
        return ""
    rows = "".join(f'<li class="problem problem-{each.level}" data-kind="{each.kind}">{esc(each.text[:1].upper() + each.text[1:])}</li>'
                   for each in problems)
    return f'<ul class="problems">{rows}</ul>'


# ---- captions

def _captions(view: SetView) -> str:
    rows = "".join(_caption_row(view, clip) for clip in _chosen(view))
    return f'{_messages(view.report)}<div class="set-top">{_prefix_box(view)}{_replace_box(view)}</div>{_filters(view)}' \
           f'<ul class="captions">{rows}</ul>{pages_html(view)}'


def _prefix_box(view: SetView) -> str:
    dataset = view.dataset
    first = next((clip for clip in dataset.used if clip.caption), None)
    shown = f'<p class="set-sample"><span>Trained on as</span> “{esc(short(dataset.text(first), 160))}”</p>' if first else ""
    return (
        f'<section class="set-box"><h2>A word before every caption</h2><form class="filters" data-act="dataset_prefix" '
        f'data-set="{dataset.id}">'
        f'<label class="search"><span class="sr">The word</span><input name="prefix" value="{esc(dataset.prefix)}" maxlength="60" '
        'placeholder="a rare word, such as DISNEY" autocomplete="off" spellcheck="false"></label><button class="btn small" '
        'type="submit">Apply'
        f'</button></form><p class="quiet">With it you call what was learned, later, in Create. A space is put after it.</p>'
        f'{shown}</section>'
    )


def _replace_box(view: SetView) -> str:
    dataset = view.dataset
    without = sum(not clip.caption for clip in dataset.used)
    ask = (button(f"Describe {_many(without, 'clip')} without a caption", "dataset_describe", kind="small", set=dataset.id)
           if view.describes and without else "")
    hint = "" if view.describes else '<p class="quiet">No vision endpoint is set up, so captions are written by hand.</p>'
    return (
        f'<section class="set-box"><h2>Find and replace</h2><form class="filters" data-act="dataset_replace" data-set="{dataset.id}">'
        '<label class="search"><span class="sr">Find</span><input name="find" maxlength="200" placeholder="Find" required '
        'autocomplete="off">'
        '</label><label class="search"><span class="sr">Replace by</span><input name="by" maxlength="200" placeholder="Replace by" '
        f'autocomplete="off"></label><button class="btn small" type="submit">Replace in all</button></form>{hint}{ask}</section>'
    )


def _caption_row(view: SetView, clip: Clip) -> str:
    report, dataset = view.report, view.dataset
    count = report.tokens.get(clip.id)
    over = count is not None and count > report.token_limit
    tokens = "" if count is None else (f'<span class="tokens{" over" if over else ""}" title="T5 tokens, of as many as '
                                       f'{esc(report.model)} reads">'
                                       f"{count} of {report.token_limit} tokens</span>")
    by = {"file": "from its file", "hand": "by hand"}.get(clip.said_by, f"by {short(clip.said_by, 30)}")
    return (
        f'<li class="caption-row" data-clip="{clip.id}">{_picture(view, clip)}<form data-act="dataset_caption" data-set="{dataset.id}" '
        f'data-clip="{clip.id}"><label><span class="sr">Caption of {esc(short(clip.origin, 60))}</span>'
        f'<textarea name="caption" rows="3" maxlength="4000" placeholder="What does it show?">{esc(clip.caption)}</textarea></label>'
        f'<div class="caption-foot">{tokens}<span class="quiet">{esc(by)}</span><button class="btn small" type="submit">Save</button></div>'
        f"{_problems(report.problems.get(clip.id, ()))}</form></li>"
    )


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
