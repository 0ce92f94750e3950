"""What a run has learned, used: at which strength, and the same clip with and without it, side by side. Pure: records in, markup out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.history.records import Job, JobState
from app.training import RunCard
from app.ui.html.common import STATE_WORDS, clip_url, esc, poster_url, short
from app.ui.html.status import progress

EVERYDAY_WEIGHT = 2.0
PROMPT_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Comparison:
    """One prompt and seed, made twice."""

    prompt: str
    seed: int
    weight: float
    without: Job | None
    """None: its job is gone."""
    having: Job | None


def can_be_used(card: RunCard) -> bool:
    """Whether it rests and has trained something: a run that failed, where that was exported."""
    ended = card.state.state in ("done", "stopped", "paused") or (card.state.state == "failed" and card.made)
    return ended and not card.active and bool(card.state.step)


def use_html(card: RunCard, prompt: str, comparisons: Sequence[Comparison] = (), *, weight: str = "1", seed: str | None = None) -> str:
    """The form for a run that has trained something; nothing for one that has not. `comparisons`: newest first. `weight`, `seed`: as
    they were typed."""
    seed = str(card.config.preview_seed) if seed is None else seed
    if not can_be_used(card) or card.config.dora:
        return ""
    strength = "" if card.config.method != "lora" else (  # a whole model is used or not
        '<label><span>Strength (1 is as trained)</span><span class="lora-weight">'
        f'<input type="range" name="weight" min="0" max="{EVERYDAY_WEIGHT:g}" step="0.05" '
        f'value="{esc(weight)}" data-shown><output>{esc(weight)}</output></span></label>')
    compare = '<button class="btn" type="submit" name="how" value="compare">Compare with and without</button>'
    if card.config.method == "stage-two":  # an ordinary clip of it is its base's
        compare = ""
    kind = "" if card.state.state == "paused" else "primary"
    return (
        f'<section class="lineage train-use" id="use"><h2>Use</h2><form data-act="train_use" data-run="{esc(card.id)}">'
        f'<label class="use-prompt"><span>Prompt</span><textarea name="prompt" rows="2" maxlength="{PROMPT_CHARS}" required>{esc(prompt)}'
        f'</textarea></label><div class="train-first">{strength}<label><span>Seed</span><input name="seed" '
        f'inputmode="numeric" value="{esc(seed)}" autocomplete="off">'
        f'</label></div><div class="actions"><button class="btn {kind}" type="submit" data-view="create">Use in '
        f'Create</button>{compare}</div></form>'
        f'{"".join(_compared(each) for each in comparisons)}</section>'
    )


def _compared(each: Comparison) -> str:
    return (f'<figure class="compared"><div>{_side(each.without, "Without")}{_side(each.having, f"With, strength {each.weight:g}")}</div>'
            f'<figcaption>{esc(short(each.prompt, 160))} · seed {each.seed}</figcaption></figure>')


def _side(job: Job | None, words: str) -> str:
    if job is None:
        inside, state = '<p class="quiet">Its job is gone.</p>', ""
    elif job.clip_id and job.state is JobState.DONE:
        inside = (f'<video src="{clip_url(job.clip_id)}" poster="{poster_url(job.clip_id)}" muted loop autoplay playsinline '
                  f'preload="metadata" aria-label="{esc(words)}"></video>')
        state = ""
    else:
        inside = f'<p class="quiet">{esc(job.error or "")}</p>' if job.state.ended else ""
        share = "" if job.state.ended else f" {progress(job):.0%}"
        state = f'<span class="chip chip-{job.state.value}">{esc(STATE_WORDS[job.state])}{share}</span>'
    return f'<div><span class="poster">{inside}</span><p class="card-line"><b>{esc(words)}</b> {state}</p></div>'


def comparisons_token(comparisons: Sequence[Comparison]) -> str:
    """Changes when what is shown does: with states, and with progress in steps of a twentieth."""
    return ";".join(f"{job.id}:{job.state.value}:{progress(job) * 20:.0f}" for each in comparisons
                    for job in (each.without, each.having) if job is not None)
