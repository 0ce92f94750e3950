"""The folder of one run, which is all there is to know about it: pages and commands read files and ask whether the process lives.

    run.json        settings, base, data, machine: what the run is         state.json   where it stands, and who runs it
    events.jsonl    every step, look at the held-out loss, preview, word   wish/        save, preview, pause, stop: files that ask for it
    checkpoints/    previews/   lora/<name>.safetensors, or model/<name>/  samples.safetensors (sets made here)

Pure, no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from engine.errors import InvalidRequest, StorageBlocked
from engine.video.publish import storage_errors, write_atomic
from training.lora.config import TrainConfig, from_mapping

RUN_VERSION = 1
ACTIVE = ("waiting", "preparing", "running", "saving", "previewing")
ENDS = ("done", "paused", "stopped", "failed", "blocked")
WISHES = ("save", "preview", "pause", "stop")
EXITS = {"done": 0, "failed": 1, "paused": 10, "stopped": 11, "blocked": 12}
"""Exit codes of the trainer's process."""
SAYS = "training: "
"""Begins the trainer's own line, among those of its launcher, about why it ended."""
SAVE_SECONDS = 30.0
"""So long a trainer that was asked to stop may go on saving when nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands."""

    state: str
    """One of `ACTIVE`, `ENDS`, or 'interrupted': its process died; resume goes on."""
    step: int = 0
    steps: int = 0
    message: str = ""
    seconds_left: float | None = None
    loss: float | None = None
    at: float = 0.0


class RunDir:
    """One run's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def previews(self) -> Path:
        return self.folder / "previews"

    @property
    def events_file(self) -> Path:
        return self.folder / "events.jsonl"

    def lora_file(self, name: str) -> Path:
        return self.folder / "lora" / f"{name}.safetensors"

    def model_folder(self, name: str) -> Path:
        """Of a run that trains all weights: the model it made."""
        return self.folder / "model" / name

    def result(self, config: TrainConfig) -> Path:
        """What the run makes: a LoRA's file, or a model's folder. It may not be there yet."""
        return self.lora_file(config.name) if config.method == "lora" else self.model_folder(config.name)

    # ---- what it is

    def create(self, config: TrainConfig, facts: dict[str, Any] | None = None) -> None:
        """Raises `InvalidRequest` if a run is there already, `StorageBlocked`."""
        if (self.folder / "run.json").exists():
            raise InvalidRequest("out", f"{self.folder} holds a run already. `sprocket train resume {self.folder}` goes on with it; "
                                        "another folder begins a new one.")
        self.write(config, facts or {})
        self.set_state(RunState("waiting", 0, config.steps))

    def write(self, config: TrainConfig, facts: dict[str, Any]) -> None:
        values = {"version": RUN_VERSION, "created": time.time(), "config": config.to_json(), "facts": facts}
        with contextlib.suppress(OSError, ValueError, KeyError):
            values["created"] = json.loads((self.folder / "run.json").read_text())["created"]
        write_atomic(self.folder / "run.json", json.dumps(values, indent=1).encode())

    def read(self) -> tuple[TrainConfig, dict[str, Any], float]:
        """(settings, facts of base, data and machine, when it was made). Raises `InvalidRequest` (run)."""
        try:
            values = json.loads((self.folder / "run.json").read_text())
            return from_mapping(values["config"]), dict(values["facts"]), float(values["created"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidRequest("run", f"{self.folder} holds no training run that can be read ({str(error)[:100]}).") from error

    # ---- where it stands

    def set_state(self, state: RunState, *, alive: bool = False) -> None:
        """Raises `StorageBlocked`; what was said before stands then."""
        path, part = self.folder / "state.json", self.folder / "state.part"
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_text(_told(state, alive))  # no fsync: a power cut ends the process it speaks of
            part.replace(path)

    def settle(self, state: RunState) -> None:
        """The end of a run, said as far as can be: on a full disk into the file there is, whose place it keeps. Never raises for that."""
        path = self.folder / "state.json"
        with contextlib.suppress(StorageBlocked, OSError):
            (self.folder / "state.part").unlink(missing_ok=True)
            self.set_state(state)
            return
        with contextlib.suppress(OSError), path.open("r+", encoding="utf-8") as file:
            file.write(_told(state, False))
            file.truncate()

    def state(self) -> RunState:
        """A run whose process is gone, though it says that it runs, is 'interrupted': nothing stays stuck."""
        try:
            values = json.loads((self.folder / "state.json").read_text())
            process = values.pop("process", None)
            state = RunState(**values)
        except (OSError, ValueError, TypeError):
            return RunState("interrupted")
        if state.state in ACTIVE and state.state != "waiting" and not _lives(process):
            return RunState("interrupted", state.step, state.steps, "Its process is gone; Resume goes on from the last checkpoint.",
                            at=state.at)
        return state

    # ---- wishes

    def ask(self, wish: str) -> None:
        """One of `WISHES`; seen after the present step."""
        if wish not in WISHES:
            raise InvalidRequest("wish", f"is {wish[:20]!r}. Use one of {', '.join(WISHES)}.")
        with storage_errors(self.folder):
            (self.folder / "wish").mkdir(parents=True, exist_ok=True)
            (self.folder / "wish" / wish).touch()

    def asked(self, wish: str) -> bool:
        return (self.folder / "wish" / wish).exists()

    def granted(self, wish: str) -> None:
        (self.folder / "wish" / wish).unlink(missing_ok=True)

    def forget_ends(self) -> None:
        """Without a wish that would end it as soon as it goes on."""
        for wish in ("pause", "stop"):
            self.granted(wish)

    # ---- events

    def tell(self, kind: str, **values: Any) -> None:
        """One line more. A line that a full disk eats, or half of it, is no reason to stop training, nor to lose the next one."""
        line = json.dumps({"kind": kind, "at": round(time.time(), 3), **values}) + "\n"
        with contextlib.suppress(StorageBlocked), storage_errors(self.folder), self.events_file.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode())

    def events(self) -> list[dict[str, Any]]:
        """All that counts: what was done again after going on from an older step stands once. Lines that were cut off are passed over."""
        found: list[dict[str, Any]] = []
        try:
            text = self.events_file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return found
        for line in text.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if not isinstance(event, dict):
                continue
            if event.get("kind") == "resumed":
                # What stands at a checkpoint's step was made before it; a run that begins anew looks at step 0 again.
                found = [old for old in found if old.get("kind") not in ("step", "eval", "preview")
                         or 0 < event["step"] >= old.get("step", 0)]
            found.append(event)
        return found


def _told(state: RunState, alive: bool) -> str:
    """What `state.json` says. `alive`: by this process, as long as it lives."""
    values: dict[str, Any] = {name: getattr(state, name) for name in RunState.__slots__} | {"at": time.time()}
    return json.dumps(values | ({"process": [os.getpid(), psutil.Process().create_time()]} if alive else {}))


def _lives(process: Any) -> bool:
    try:
        pid, started = process
        return abs(psutil.Process(int(pid)).create_time() - float(started)) < 1 and psutil.Process(int(pid)).status() != "zombie"
    except (psutil.Error, TypeError, ValueError):
        return False
