"""`sprocket train`: new runs, going on with old ones, and what they would cost."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli_common import DataDir, Json, opened, print_list, say, settings_of
from app.history.records import JobState
from app.paths import is_file
from app.queue.kinds.train import environment, launch_command
from app.queue.launched import Launched
from app.studio import LOCAL, Studio
from app.training import PRESETS, Forecast, RunCard
from engine.errors import InvalidRequest, SprocketError
from engine.models.catalogue import find
from engine.spec import read_spec
from training.lora.config import FIELDS, TrainConfig, explained, from_mapping, may_change
from training.lora.forecast import choose_memory, step_seconds
from training.lora.lock import run_lock
from training.lora.processes import check_devices, division_words
from training.lora.rundir import EXITS, RunDir, RunState

train_app = typer.Typer(invoke_without_command=True, no_args_is_help=True, subcommand_metavar="[COMMAND]",
                        help="Train a LoRA here and now: `sprocket train --model pocket --dataset D --name N --rank R --steps S`."
                             " Ctrl-C pauses it; `sprocket train resume RUN` goes on exactly there. Exit codes: 0 done, 10 paused, 11 "
                             "stopped, 12 blocked by a full disk, 2 bad request, 3 cannot fit this machine, 1 failed, "
                             "130 ended by a second Ctrl-C.")

INTERRUPTED = 130
"""Exit code after a Ctrl-C that did not wait for the step."""
PAUSING = "Pausing after this step; `sprocket train resume` goes on. Ctrl-C again ends it at once, back at the last checkpoint."


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with every setting of a run as an option; it gets those that were given as `values`."""
    own = [parameter for parameter in inspect.signature(command, eval_str=True).parameters.values() if parameter.name != "values"]
    options, words = [], explained()
    for name, field in FIELDS.items():
        if name == "config_version":
            continue
        kind: Any = bool | None if field.type == "bool" else list[str] | None if str(field.type).startswith("tuple") else str | None
        flag = f"--{name.replace('_', '-')}" + (f"/--no-{name.replace('_', '-')}" if field.type == "bool" else "")
        default = "" if field.default in (None, dataclasses.MISSING, "", ()) else f" [default: {field.default}]"
        metavar = None if field.type == "bool" else name.upper()
        option = typer.Option(flag, help=words[name] + default, metavar=metavar, show_default=False)
        options.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]))

    @functools.wraps(command)
    def taken(**given: Any) -> None:
        values = {name: given.pop(name) for name in FIELDS if name in given}
        command(values={name: value for name, value in values.items() if value is not None}, **given)

    keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    vars(taken)["__signature__"] = inspect.Signature(keyword + options)
    taken.__annotations__ = {parameter.name: parameter.annotation for parameter in keyword + options}
    return taken


@train_app.callback()
@with_settings
def train(context: typer.Context, values: dict[str, Any],
          preset: Annotated[str, typer.Option(help=f"Start from {', '.join(PRESETS)}; other options change it.")] = "",
          out: Annotated[Path | None, typer.Option(help="The run's own folder; without it the run is in the studio, and its LoRA "
                                                        "on the shelf.")] = None,
          dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would cost, and end.")] = False,
          data_dir: DataDir = None, as_json: Json = False) -> None:
    """Train a LoRA here and now, and say how it goes."""
    if context.invoked_subcommand is not None:
        _check_none(context, context.invoked_subcommand)
        return
    if preset and preset not in PRESETS:
        raise InvalidRequest("preset", f"is {preset[:30]!r}. Use one of {', '.join(PRESETS)}.")
    config = from_mapping((PRESETS[preset][2] if preset else {}) | values)
    settings = settings_of(data_dir)
    if dry_run:
        _dry_run(config, settings, as_json)
        return
    if out is None:
        with opened(data_dir) as studio:
            card = studio.training.start(config, owner=LOCAL, reserve=True)
            _here(studio, card, as_json)
        return
    run = RunDir(out)
    with opened(data_dir) as studio:
        _found, facts = studio.training.checked(config, owner=LOCAL)
    run.create(config, facts)
    raise SystemExit(_work(run, settings, as_json))


def _check_none(context: typer.Context, command: str) -> None:
    """Raises InvalidRequest for an option before the command, which would not see it."""
    for option in context.command.params:
        source = context.get_parameter_source(option.name) if option.name else None
        if source is not None and source.name == "COMMANDLINE":
            flag = (option.secondary_opts if context.params.get(str(option.name)) is False else option.opts)[0]
            raise InvalidRequest(str(option.name), f"stands before {command}, which would not see it. Write {flag} behind it: `sprocket "
                                                   f"train {command} ... {flag}`; `sprocket train {command} --help` says what it takes.")


@train_app.command("resume")
@with_settings
def resume(run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or its id in the studio.")], values: dict[str, Any],
           data_dir: DataDir = None, as_json: Json = False) -> None:
    """Go on from the newest sound checkpoint, exactly. Only settings that leave the weights as they are may change: --name, those of saving
    and previews, --eval-steps, trackers, --max-bad-steps, --budget, --streaming, --sharding, --processes, --sequence-parallel, and --steps
    where the schedule does not look at it. Exit codes as of `train`."""
    folder = Path(run)
    if is_file(folder / "run.json"):
        at = RunDir(folder)
        config, facts, _created = at.read()
        after = from_mapping(config.to_json() | values)
        may_change(config, after)
        state = at.state()
        if state.state in ("running", "preparing", "previewing", "saving"):
            raise InvalidRequest("run", f"is {state.state} already, in another process.")
        with run_lock(folder):
            at.write(after, facts)
            at.forget_ends()
        raise SystemExit(_work(at, settings_of(data_dir), as_json))
    with opened(data_dir) as studio:
        card = studio.training.resume(run, owner=LOCAL, changes=values, reserve=True)
        _here(studio, card, as_json)


@train_app.command("list")
def list_runs(data_dir: DataDir = None, as_json: Json = False) -> None:
    """The studio's runs, newest first."""
    with opened(data_dir) as studio:
        rows = [_row(card) for card in studio.training.cards(owner=LOCAL)]
        print_list("runs", rows, as_json, _line, empty="No training runs yet.")


@train_app.command("show")
def show(run: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """One run as JSON, on one line with --json: settings, state, losses."""
    with opened(data_dir) as studio:
        card = studio.training.card(run, owner=LOCAL)
        print(json.dumps(_row(card) | {"config": card.config.to_json(), "facts": dict(card.facts),
                                       "events": studio.training.run(run).events()[-200:]},
                         indent=None if as_json else 2))


@train_app.command("pause")
def pause(run: str, data_dir: DataDir = None) -> None:
    """Finish the present step, save, and wait for `resume`."""
    _ask(run, "pause", data_dir)


@train_app.command("stop")
def stop(run: str, data_dir: DataDir = None) -> None:
    """Finish the present step, save, and end; what was trained can be used."""
    _ask(run, "stop", data_dir)


@train_app.command("use")
def use(run: str, data_dir: DataDir = None) -> None:
    """Put what the run has trained so far on the shelf of LoRAs, or a whole model among the models; prints its name."""
    with opened(data_dir) as studio:
        if studio.training.card(run, owner=LOCAL).config.method != "lora":
            print(studio.training.use_model(run, owner=LOCAL))
            return
        print(studio.training.use(run, owner=LOCAL).name)


def _dry_run(config: TrainConfig, settings: Any, as_json: bool) -> None:
    with opened(settings.data_dir) as studio:
        found, _facts = studio.training.checked(config, owner=LOCAL)
    values = {"bytes": found.choice.bytes, "parts": dict(found.choice.parts), "blocks": found.choice.words, "seconds": found.seconds,
              "measured": found.measured, "free_bytes": found.free_bytes, "config": config.to_json()}
    if as_json:
        print(json.dumps(values))
        return
    for line in forecast_lines(config, found):
        print(line)


def forecast_lines(config: TrainConfig, found: Forecast) -> list[str]:
    """The plan for people."""
    parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in found.choice.parts.items())
    basis = "as this machine trained before" if found.measured else "a guess: this machine has not trained this model yet"
    what = (f"Model   every weight of the transformer: {found.choice.parts['trained'] / 2**30:.2f} GiB for their training"
            if config.method == "full" else f"Frames between frames: stage two of rank {config.rank}" if config.method == "stage-two" else
            f"LoRA    rank {config.rank}, alpha {config.effective_alpha:g} on {', '.join(config.layers)}")
    return [what,
            f"Memory  {found.choice.bytes / 2**30:.2f} GiB of {found.free_bytes / 2**30:.1f} free ({parts}); {found.choice.words}",
            *([f"Shared  {shared}"] if (shared := division_words(config)) else []),
            f"Time    {found.seconds / 60:.1f} min for {config.steps} steps ({basis})",
            *(f"{name:<24}{value}" for name, value in config.to_json().items())]


def _ask(run: str, wish: str, data_dir: Path | None) -> None:
    if is_file(Path(run) / "run.json"):
        RunDir(Path(run)).ask(wish)
        return
    with opened(data_dir) as studio:
        studio.training.ask(run, wish, owner=LOCAL)


def _work(run: RunDir, settings: Any, as_json: bool) -> int:
    """The trainer in a process of its own, followed until it ends."""
    config, _facts, _created = run.read()
    spec = read_spec(find(config.model, models_dir=settings.models_dir), config.model)
    from engine.hardware import detect

    machine = detect(config.device or None)
    check_devices(machine, config.ranks)
    choice = choose_memory(spec, config, machine)
    say(f"{config.name}: {choice.bytes / 2**30:.2f} GiB expected, about {config.steps * step_seconds(choice, machine) / 60:.0f} min")
    run.set_state(RunState("waiting", run.state().step, config.steps))
    command = launch_command(run.folder, settings.models_dir, settings.datasets_dir, machine.device, parent=os.getpid(),
                             processes=config.ranks)
    with (run.folder / "training.log").open("ab") as log:
        cut_off = _follow(run, Launched(command, out=log, env=environment()))
    state = run.state()
    if state.state == "failed":
        raise SprocketError(state.message)
    if state.state not in EXITS and not cut_off:
        raise SprocketError(f"the trainer ended unexpectedly; {run.folder / 'training.log'} says more. `sprocket train resume "
                            f"{run.folder}` goes on from the last checkpoint.")
    if as_json:  # after what is raised, which is an object of its own
        print(json.dumps({"state": state.state, "step": state.step, "steps": state.steps, "message": state.message,
                          "lora": str(run.result(config)) if run.result(config).exists() else None}))
    say(f"{state.state}: step {state.step} of {state.steps}. {state.message} {run.result(config)}")
    return EXITS.get(state.state, INTERRUPTED)


def _follow(run: RunDir, launched: Launched) -> bool:
    """Until the trainer has ended. Ctrl-C, or SIGTERM, asks it to pause; the second ends it at once, and is what is answered."""
    from app.queue.inline import terminable

    shown, asked = -1, False
    with terminable():
        while True:
            try:
                while launched.alive():
                    time.sleep(0.5)
                    state = run.state()
                    if state.state in ("running", "previewing") and state.step != shown and state.step % 10 == 0:
                        shown = state.step
                        left = "" if state.seconds_left is None else f", {state.seconds_left / 60:.1f} min left"
                        say(f"step {state.step}/{state.steps}  loss {state.loss if state.loss is None else round(state.loss, 4)}{left}")
                return False
            except KeyboardInterrupt:
                if asked:
                    launched.end(0.0)
                    return True
                asked = True
                say(PAUSING)
                run.ask("pause")


def _here(studio: Studio, card: RunCard, as_json: bool) -> None:
    """The run's job in this process. Ctrl-C pauses it, as `app.queue.kinds.train` does for every job that is told to stop."""
    def interrupted(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the second is no wish to pause
        say(PAUSING)
        raise KeyboardInterrupt

    before, otherwise = signal.signal(signal.SIGINT, interrupted), EXITS["failed"]
    try:
        if card.job is not None:
            studio.run_here(card.job.id)
    except KeyboardInterrupt:  # the job is cancelled, and its run says how far it came
        otherwise = INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, before)
    _tell(studio.training.card(card.id, owner=LOCAL), as_json, otherwise)


def _row(card: RunCard) -> dict[str, Any]:
    return {"id": card.id, "name": card.config.name, "model": card.config.model, "dataset": card.config.dataset, "state": card.state.state,
            "step": card.state.step, "steps": card.config.steps, "message": card.state.message, "created": card.created}


def _line(row: dict[str, Any]) -> str:
    return f"{row['id']}  {row['name'][:30]:<30}  {row['state']:<12} {row['step']}/{row['steps']}"


def _tell(card: RunCard, as_json: bool, otherwise: int) -> None:
    """Says how the run ended, and ends with its exit code; `otherwise` where its state is no end."""
    row = _row(card)
    if card.job is not None and card.job.state is JobState.BLOCKED:  # of its run the card only says that it waits
        row |= {"state": JobState.BLOCKED.value, "message": card.job.error or card.state.message}
    print(json.dumps(row)) if as_json else say(f"{row['state']}: step {row['step']} of {row['steps']}. {row['message']}")
    code = EXITS.get(row["state"], otherwise)
    if code == EXITS["failed"]:
        error = card.job.error if card.job else None
        print(error or card.state.message, file=sys.stderr)
    if code:
        raise SystemExit(code)
