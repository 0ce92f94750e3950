"""The LoRAs on Create: those in the next clip with a weight each, those that could be, and why the others cannot.

    loras_html(view)      the panel in the folded settings
    told(recipe)          the LoRAs of a clip in words, for its page
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.ui.html.common import button, esc, short
from engine.request import MAX_LORA_WEIGHT, MAX_LORAS

EVERYDAY_WEIGHT = 2.0
"""A slider goes so far to both sides, unless the weight lies beyond."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraRow:
    """One LoRA. Its own words are untrusted."""

    name: str
    title: str
    line: str = ""
    """Rank, trigger word, what the page has to say of it."""
    weight: float | None = None
    """Its weight in the next clip; None for one that is not used."""
    problem: str = ""
    """Why the chosen model cannot use it."""
    here: bool = True
    """False: a clip or job named it, and its file is not on this machine."""


@dataclass(frozen=True, slots=True)
class LorasView:
    """All that the panel says."""

    rows: Sequence[LoraRow] = ()
    model: str = ""
    problem: str = ""


def loras_html(view: LorasView) -> str:
    """The panel. No text in it is trusted."""
    used = [row for row in view.rows if row.weight is not None]
    free = [row for row in view.rows if row.weight is None and not row.problem]
    odd = [row for row in view.rows if row.weight is None and row.problem]
    add = button("Add a LoRA…", "choose", kind="small", purpose="lora", accept=".safetensors")
    count = f" <span class='quiet'>{len(used)} of at most {MAX_LORAS} used</span>" if used else ""
    problem = f'<p class="source-problem" role="alert">{esc(view.problem)}</p>' if view.problem else ""
    body = "".join((
        _list("".join(_used(row) for row in used), "LoRAs of the next video"),
        _list("".join(_free(row, full=len(used) >= MAX_LORAS) for row in free), "LoRAs that fit"),
        _misfits(odd, view.model),
    )) or '<p class="quiet">A LoRA gives the model a style or a subject. A .safetensors file of one for CogVideoX can be added here.</p>'
    return (
        '<section class="loras" aria-labelledby="loras-label"><div class="loras-head">'
        f'<span class="source-label" id="loras-label">LoRAs</span>{count}{add}</div><p class="source-progress" role="status"></p>'
        f"{problem}{body}</section>"
    )


def told(recipe: Mapping[str, Any]) -> str:
    """'fox.safetensors × 0.8, ...' of a clip's recipe; '' without any. Not escaped; the recipe is untrusted."""
    request, known = recipe.get("request"), recipe.get("loras")
    pairs = request.get("loras") if isinstance(request, dict) else None
    files = {each.get("name"): each.get("file") for each in known if isinstance(each, dict)} if isinstance(known, list) else {}
    said = [f"{short(str(files.get(pair[0]) or str(pair[0])[:12] + '…'), 60)} × {pair[1]:g}" for pair in pairs or ()
            if isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[1], (int, float))]
    return ", ".join(said)


def _list(rows: str, label: str) -> str:
    return f'<ul class="lora-list" aria-label="{label}">{rows}</ul>' if rows else ""


def _used(row: LoraRow) -> str:
    most = EVERYDAY_WEIGHT if abs(row.weight or 0) <= EVERYDAY_WEIGHT else MAX_LORA_WEIGHT
    problem = f'<p class="source-warning">{esc(row.problem)}</p>' if row.problem else ""
    slider = (
        f'<label class="lora-weight"><span class="sr">Weight of {esc(row.title)}</span><input type="range" data-change="lora_weight" '
        f'data-name="{esc(row.name)}" min="{-most:g}" max="{most:g}" step="0.05" value="{row.weight:g}">'
        f"<output>{row.weight:g}</output></label>"
    )
    away = button("Leave out", "lora_off", kind="link small", name=row.name, title=f"Make the next video without {row.title}")
    return f'<li class="lora on"><div class="lora-words"><b>{esc(row.title)}</b>{_line(row)}{problem}</div>{slider}{away}</li>'


def _free(row: LoraRow, *, full: bool) -> str:
    use = "" if full else button("Use", "lora_on", kind="small", name=row.name, title=f"Use {row.title} in the next video")
    return f'<li class="lora"><div class="lora-words"><b>{esc(row.title)}</b>{_line(row)}</div>{use}{_delete(row)}</li>'


def _misfits(rows: Sequence[LoraRow], model: str) -> str:
    if not rows:
        return ""
    items = "".join(
        f'<li class="lora"><div class="lora-words"><b>{esc(row.title)}</b>{_line(row)}<p>{esc(row.problem)}</p></div>{_delete(row)}</li>'
        for row in rows
    )
    words = f"{len(rows)} more {'does' if len(rows) == 1 else 'do'} not fit {esc(short(model, 40)) or 'this model'}"
    return f'<details class="lora-odd"><summary>{words}</summary>{_list(items, "LoRAs that do not fit")}</details>'


def _line(row: LoraRow) -> str:
    return f"<p>{esc(row.line)}</p>" if row.line else ""


def _delete(row: LoraRow) -> str:
    return button("Delete", "lora_delete", kind="quiet-bad small", name=row.name, title=f"Delete {row.title}", sure="Delete this LoRA?",
                  why=f"{row.title} is removed from this machine. Clips made with it stay; making them again needs the file.",
                  yes="Delete it")
