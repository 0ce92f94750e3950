"""The Train page: past runs with their curves, the form of a new one, and one run as it works. Pure: cards and events in, markup out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.hub.words import amount
from app.training import PRESETS, Forecast, RunCard
from app.ui.html.common import ago, button, duration, empty, esc, left, link, short
from app.ui.html.curves import curve_svg, mean, smoothed, spark_svg
from app.ui.html.train_use import can_be_used
from engine.lines import one_line
from training.data.buckets import SHAPES
from training.lora.config import (
    BASES,
    FIELDS,
    MEMORY,
    METHODS,
    NAME_BYTES,
    NAME_CHARS,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    SHARDING,
    STREAMING,
    TARGETS,
    TRACKERS,
    TrainConfig,
    explained,
)

STATE_WORDS = {"waiting": "Waiting", "preparing": "Preparing", "running": "Training", "saving": "Saving", "previewing": "Making previews",
               "done": "Done", "paused": "Paused", "stopped": "Stopped", "failed": "Failed", "blocked": "Disk full",
               "interrupted": "Interrupted"}
BAD = ("failed", "blocked", "interrupted")
GROUPS: Mapping[str, tuple[str, ...]] = {
    "What is trained": ("method", "rank", "alpha", "targets", "dropout", "rslora", "dora", "trigger"),
    "Learning": ("steps", "batch", "accumulate", "learning_rate", "schedule", "warmup", "cycles", "power", "max_grad_norm", "ema"),
    "Optimizer": ("optimizer", "beta1", "beta2", "beta3", "epsilon", "weight_decay", "prodigy_decouple", "prodigy_bias_correction",
                  "prodigy_safeguard_warmup"),
    "Clips, captions, times and randomness": ("shapes", "caption_dropout", "image_dropout", "image_noise", "stratified", "min_snr", "seed"),
    "Memory and device": ("precision", "base", "memory", "streaming", "budget", "processes", "sequence_parallel", "sharding", "device",
                          "threads"),
    "Watching and saving": ("preview_prompts", "preview_steps", "preview_seed", "preview_frames", "preview_sampling", "eval_steps",
                            "eval_clips",
                            "save_steps", "save_seconds", "keep", "max_bad_steps", "trackers"),
}
HINTS = {"trackers": "some of " + ", ".join(TRACKERS), "preview_prompts": "one a line"}
CHOICES: Mapping[str, tuple[str, ...]] = {"shapes": SHAPES, "method": METHODS, "optimizer": OPTIMIZERS, "schedule": SCHEDULES,
                                          "precision": PRECISIONS,
                                          "base": BASES,
                                          "memory": MEMORY, "streaming": STREAMING, "sharding": SHARDING, "targets": tuple(TARGETS),
                                          "device": ("", "cuda", "cpu")}


def runs_html(cards: Sequence[RunCard], curves: Mapping[str, Sequence[float]], said: str = "") -> str:
    """All runs. `curves`: run -> its smoothed losses, for the small picture."""
    head = ('<p class="crumbs"><a class="inline" href="/?view=train" data-act="go">← Datasets</a></p>'
            '<header class="page-head"><h1 class="page-title">Training runs</h1>'
            f'<span class="quiet">{len(cards)} run{"" if len(cards) == 1 else "s"}</span>'
            f'{link("New run", "/?view=train&run=new", kind="btn primary")}</header>')
    refused = f'<p class="banner bad" role="alert">{esc(said)}</p>' if said else ""
    if not cards:
        return head + refused + empty("No training runs yet", "A LoRA teaches a model something it does not know: a character, a style, a "
                                      "motion, from 25 clips or more.", action=link("New run", "/?view=train&run=new", kind="btn primary"))
    rows = "".join(_run_row(card, curves.get(card.id, ())) for card in cards)
    return f'{head}{refused}<section class="jobs"><ul>{rows}</ul></section>'


def _run_row(card: RunCard, curve: Sequence[float]) -> str:
    href = f"/?view=train&run={card.id}"
    return (f'<li class="job run"><a href="{href}" data-act="go" class="spark" aria-label="{esc(card.config.name)}">'
            f'{spark_svg(curve)}</a><div>'
            f'<p class="job-prompt"><a href="{href}" data-act="go">{esc(card.config.name)}</a></p><p class="job-line">{_chip(card)} · step '
            f'{card.state.step} of {card.config.steps} · {esc(short(card.config.model, 40))} on {esc(short(card.config.dataset, 40))} · '
            f'{_kind(card.config)} · {esc(ago(card.created))}</p>{_bar(card)}</div><div class="job-actions">'
            f'{_buttons(card, small=True)}</div></li>')


def _kind(config: TrainConfig) -> str:
    return {"full": "all weights", "stage-two": f"stage two, rank {config.rank}"}.get(config.method, f"rank {config.rank}")


def _chip(card: RunCard) -> str:
    state = card.state.state
    kind = "failed" if state in BAD else "done" if state == "done" else "running" if card.active else state
    return f'<span class="chip chip-{kind}">{STATE_WORDS.get(state, esc(state))}</span>'


def _bar(card: RunCard) -> str:
    if not card.active:
        return ""
    share = 100 * card.state.step / max(1, card.config.steps)
    track = f'<div class="bar" role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" aria-valuemax="100">'
    return f'{track}<i style="width:{share:.1f}%"></i></div>'


def _buttons(card: RunCard, *, small: bool = False) -> str:
    kind = "small" if small else ""
    made = []
    if card.active:
        if card.state.state != "waiting":
            made += [button("Save now", "train_save", kind=kind, run=card.id), button("Preview "
                "now", "train_preview", kind=kind, run=card.id)]
        made += [button("Pause", "train_pause", kind=kind, run=card.id, busy="Pausing…"),
                 button("Stop", "train_stop", kind=kind, run=card.id, busy="Stopping…")]
    elif card.state.state != "done":
        made.append(button("Resume", "train_resume", kind=f"{kind} primary", run=card.id))
    if small and can_be_used(card):
        made.append(button("Use in Create", "train_use", kind=f"{kind} primary" if card.state.state in ("done", "stopped") else kind,
                           run=card.id, view="create"))
    made.append(link("Clone", f"/?view=train&run=new&origin={card.id}", kind=f"btn {kind}"))
    if not card.active and not small:
        made.append(button("Delete", "train_delete", kind="quiet-bad", run=card.id,
                           sure=f"Delete the run {card.config.name} with its checkpoints and previews? A LoRA on the shelf stays."))
    return "".join(made)


def run_html(card: RunCard, events: Sequence[Mapping[str, Any]], said: str = "", used: str = "") -> str:
    """One run: where it stands, curves, previews beside those of step 0, words. `used`: the markup of its Use step."""
    config, state = card.config, card.state
    message = f'<p class="banner {"bad" if state.state in BAD else "told"}" role="status">{esc(state.message)}</p>' if state.message else ""
    refused = f'<p class="banner bad" role="alert">{esc(said)}</p>' if said else ""
    rest = " · ".join(filter(None, (f"step {state.step} of {config.steps}", left(state.seconds_left) if card.active else "",
                                    f"loss {state.loss:.4f}" if state.loss is not None and card.active else "")))
    here = f"/?view=train&run={card.id}"
    return (f'<p class="crumbs" data-address="{here}"><a class="inline" href="/?view=train&run=all" data-act="go">← All runs</a></p>'
            f'<header class="page-head"><h1 class="page-title">'
            f'{esc(config.name)}</h1><span class="quiet">{_chip(card)} · {esc(rest)}</span></header>{refused}{message}{_bar(card)}'
            f'<div class="actions run-actions">{_buttons(card)}</div>{used}{_curves(events, config.steps)}{_previews(card.id, events)}'
            f"{_warnings(events)}{_facts(card)}")


def _curves(events: Sequence[Mapping[str, Any]], steps: int) -> str:
    raw = [(event["step"], event["loss"]) for event in events if event.get("kind") == "step" and event.get("loss") is not None]
    looks = [event for event in events if event.get("kind") == "eval"]
    held = [(event["step"], mean(event["held_out"])) for event in looks if event.get("held_out")]
    train = [(event["step"], mean(event["train"])) for event in looks if event.get("train")]
    if not raw and not held:
        return '<section class="curves"><p class="all-done">Curves appear with the first step.</p></section>'
    smooth = list(zip([step for step, _ in raw], smoothed([loss for _, loss in raw]), strict=True))
    main = curve_svg({"raw": raw, "smooth": smooth}, steps, "Training loss, each step and smoothed")
    even = curve_svg({"held": held, "twin": train}, steps, "Loss on held-out clips and on as many of the set, always with the same noise")
    rate = curve_svg({"rate": [(event["step"], event["rate"]) for event in events if event.get("kind") == "step"]}, steps, "Learning rate")
    times = {f"q{at}": [(event["step"], event["held_out"][at]) for event in looks if len(event.get("held_out") or ()) > at]
             for at in range(5)}
    parts = curve_svg(times, steps, "Held-out loss at five times, from nearly clean (light) to nearly noise (dark)") if held else ""
    note = _held_note(held)
    return (f'<section class="curves"><figure>{even or main}<figcaption><b>Held out</b> (strong) and the set itself (thin): the same '
            f'clips, '
            f'noise and times at every look, so this line means something.{note}</figcaption></figure><figure>{main}<figcaption><b>'
            f'Training '
            f'loss</b>: each step thin, smoothed strong. Its spread is far larger than what is learned.</figcaption></figure>'
            f'<figure>{parts}<figcaption>Held out by noise: light is nearly clean.</figcaption></figure><figure>{rate}<figcaption>Learning '
            f"rate.</figcaption></figure></section>")


def _held_note(held: Sequence[tuple[int, float]]) -> str:
    if len(held) < 2:
        return ""
    (step, first), (_, last), best = held[0], held[-1], min(held, key=lambda each: each[1])
    return f" Step {step} {first:.4f}, now {last:.4f}, lowest {best[1]:.4f} at step {best[0]}."


def _previews(run_id: str, events: Sequence[Mapping[str, Any]]) -> str:
    shown = [event for event in events if event.get("kind") == "preview"]
    if not shown:
        return ""
    numbers = sorted({event["number"] for event in shown})
    rows = []
    for number in numbers:
        mine = [event for event in shown if event["number"] == number]
        first, rest = mine[0], list(reversed(mine[1:]))[:5]
        rows.append(f'<p class="job-prompt">{esc(short(str(first["prompt"]), 160))}</p><ul class="grid mini">'
                    + "".join(_clip(run_id, event) for event in (first, *rest)) + "</ul>")
    return f'<section class="lineage run-previews"><h2>Previews, the one of the first step before the newest</h2>{"".join(rows)}</section>'


def _clip(run_id: str, event: Mapping[str, Any]) -> str:
    url = f"/media/training/{run_id}/{event['step']}/{event['number']}"
    return (f'<li><span class="poster"><video src="{url}.mp4" poster="{url}.webp" muted loop autoplay playsinline preload="metadata" '
            f'aria-label="Preview at step {event["step"]}"></video></span><span class="card-line">step {event["step"]}</span></li>')


def _warnings(events: Sequence[Mapping[str, Any]]) -> str:
    words = [str(event.get("text", "")) for event in events if event.get("kind") in ("warning", "error")][-8:]
    if not words:
        return ""
    return '<section class="lineage"><h2>What it said</h2>' + "".join(f'<p class="model-note">{esc(word)}</p>'
        f'' for word in words) + "</section>"


def _facts(card: RunCard) -> str:
    config, said = card.config, card.facts
    rows = {"Base": config.model, "Dataset": f"{config.dataset}, {said.get('clips', '?')} clips, {said.get('held_out', '?')} held out",
            **({"Trained": "every weight of the transformer" if config.method == "full" else f"stage two, rank {config.rank}"}
               if config.method != "lora" else
               {"LoRA": f"rank {config.rank}, alpha {config.effective_alpha:g}, {', '.join(config.layers)}"}),
            "Learning": f"{config.optimizer}, {config.learning_rate:g}, {config.schedule}, batch {config.batch} x {config.accumulate}",
            "Arithmetic": f"{said.get('dtype', '?')}, trained weights in float32", "Seed": str(config.seed)}
    lines = "".join(f"<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd></div>" for name, value in rows.items())
    return f'<details class="recipe"><summary>Settings</summary><dl class="facts">{lines}</dl></details>'


# ---- a new run


def new_html(models: Sequence[str], datasets: Mapping[str, str], chosen: Mapping[str, Any], forecasts: Mapping[str, Forecast | str],
             said: str = "") -> str:
    """The form. `chosen`: values that are there already; `forecasts`: preset -> what it would cost, or why it cannot be."""
    refused = f'<p class="banner bad" role="alert">{esc(said)}</p>' if said else ""
    preset = str(chosen.get("preset", "standard"))
    cards = "".join(_preset(key, forecasts.get(key, ""), key == preset) for key in PRESETS)
    own = '<p class="quiet">The settings below are those of the cloned run.</p>' if chosen.get("cloned") else ""
    name = esc(str(chosen.get("name", "")))
    unfolded = " open" if chosen.get("cloned") or chosen.get("unfolded") else ""
    return (f'<p class="crumbs"><a class="inline" href="/?view=train&run=all" data-act="go">← All runs</a></p>'
            f'<header class="page-head"><h1 class="page-title">'
            f'New run</h1>'
            f'</header>{refused}{own}<form class="train-form" data-act="train_start"><div class="train-first">'
            f'{_select("model", "Model", {name: name for name in models}, str(chosen.get("model", "")))}'
            f'{_select("clips", "Clips", datasets, str(chosen.get("dataset", "")))}'
            f'<label><span>Name</span><input name="name" value="{name}" maxlength="60" required autocomplete="off" '
            f'placeholder="paper-fox"></label>'
            f'</div><fieldset class="presets"><legend class="sr">How much</legend>{cards}</fieldset>'
            f'<details class="train-more"{unfolded}><summary>All settings</summary><p class="quiet">'
            f'What is left '
            f'empty is as the preset has it.</p>{"".join(_group(title, names, chosen) for title, names in GROUPS.items())}</details>'
            '<div class="actions"><button class="btn primary" type="submit">Start training</button><button class="btn" type="submit" '
            'name="only" value="forecast">Forecast these settings</button></div></form>')


def _preset(key: str, forecast: Forecast | str, on: bool) -> str:
    title, what, settings = PRESETS[key]
    if isinstance(forecast, Forecast):
        basis = "" if forecast.measured else " (a guess: this machine has not trained this model yet)"
        cost = f"{amount(forecast.choice.bytes)} of memory, about {duration(forecast.seconds)}{basis}"
    else:
        cost = forecast
    plan = f"rank {settings['rank']}, {settings['steps']} steps"
    return (f'<label class="preset"><input type="radio" name="preset" value="{key}"{" checked" if on else ""}><b>{esc(title)}</b><span>'
            f'{esc(what)}'
            f'</span><span class="quiet">{esc(plan)}</span><span class="preset-cost">{esc(cost)}</span></label>')


def _select(name: str, label: str, options: Mapping[str, str], value: str) -> str:
    """With a value that is none of the options, which a browser would take the first for: Start uses it, or says why it cannot."""
    if value and value not in options:
        options = {value: f"{value}, which is not in this list", **options}
    made = "".join(f'<option value="{esc(option)}"{" selected" if option == value else ""}>{esc(words)}</option>'
                   for option, words in options.items())
    return f'<label><span>{esc(label)}</span><select name="{name}">{made}</select></label>'


def _group(title: str, names: Sequence[str], chosen: Mapping[str, Any]) -> str:
    words = explained()
    rows = "".join(f'<div class="setting">{_field(name, chosen.get(name))}<p class="quiet">{esc(words[name])}</p></div>' for name in names)
    return f"<h2>{esc(title)}</h2><div class=\"train-settings\">{rows}</div>"


def _field(name: str, value: Any) -> str:
    label = name.replace("_", " ").capitalize()
    default = FIELDS[name].default
    if name in CHOICES:
        known = CHOICES[name]
        if value is not None and str(value) not in known:  # layers by name, of a clone
            known = (*known, str(value))
        options = "".join(f'<option{" selected" if str(value) == option else ""} value="{esc(option)}">'
                          f'{esc(option or "automatic")}</option>'
                          for option in known)
        return f'<label><span>{esc(label)}</span><select name="{name}"><option value="">as the preset</option>{options}</select></label>'
    if FIELDS[name].type == "bool":
        options = "".join(f'<option value="{word}"{" selected" if value is flag or value == word else ""}>{word}</option>'
                          for word, flag in (("yes", True), ("no", False)))
        none = f'<option value="">{"yes" if default else "no"} (default)</option>'
        return f'<label><span>{esc(label)}</span><select name="{name}">{none}{options}</select></label>'
    hint = HINTS.get(name) or (f"{default:g}" if isinstance(default, (int, float)) else str(default or ""))
    if name == "preview_prompts":  # which may hold any sign, but no end of a line
        box = f'<textarea name="{name}" rows="3" placeholder="{esc(hint)}">{esc(_shown(value, lines=True))}</textarea>'
    else:
        box = f'<input name="{name}" value="{esc(_shown(value))}" placeholder="{esc(hint)}" autocomplete="off">'
    return f'<label><span>{esc(label)}</span>{box}</label>'


def _shown(value: Any, *, lines: bool = False) -> str:
    if isinstance(value, (list, tuple)):
        return "\n".join(value) if lines else "; ".join(value)
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return "" if value is None else str(value)


def chosen_of(config: TrainConfig, dataset: str = "") -> dict[str, Any]:
    """What the form shows for a run that is cloned. `dataset`: the id of its set, which `config` may call by a name that changes."""
    cut = config.name.encode()[:NAME_BYTES - 10].decode(errors="ignore")[:NAME_CHARS - 8]
    return {name: getattr(config, name) for name in FIELDS if name != "config_version"} | {
        "cloned": True, "name": f"{one_line(cut)} again", "preset": "standard"} | ({"dataset": dataset} if dataset else {})
