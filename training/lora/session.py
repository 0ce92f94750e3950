"""A run from beginning to end in one process: what `python -m training` does.

    prepare (data, base, LoRA) -> [look, preview, step, save]... -> export -> done
    wishes (files in the run's folder) and SIGTERM are seen after every step; a full disk pauses, NaN steps end the run with its last
    good state saved
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from engine.digest import file_sha256
from engine.errors import Cancelled, InvalidRequest, SprocketError, StorageBlocked
from engine.hardware import Hardware
from engine.lifeline import set_in_handler
from engine.spec import ModelSpec
from engine.video.publish import write_atomic
from training.lora import evaluate, export
from training.lora.base import load_base, precision_of
from training.lora.card import card
from training.lora.config import TrainConfig
from training.lora.forecast import choose_memory
from training.lora.full import save_model
from training.lora.loop import Stepped, Trainer, World, deterministic
from training.lora.preview import preview
from training.lora.rundir import RunDir, RunState
from training.lora.samples import SampleSet
from training.lora.stage_two import StageTwoWeights, write_stage_two
from training.lora.trackers import Trackers

log = logging.getLogger(__name__)
WORDS = {"done": "", "paused": "Paused; Resume goes on exactly here.", "stopped": "Stopped; what was trained can be used."}
RECENT = 20
BEAT_SECONDS = 1.0


class Session:
    """Owns the trainer of one run while it works."""

    def __init__(self, run: RunDir, spec: ModelSpec, machine: Hardware, samples: Callable[[Any], SampleSet], *, world: World | None = None,
                 trackers: Trackers | None = None, stopping: threading.Event | None = None) -> None:
        """`samples`: gives the set, with the loaded model where it has to be encoded first. `stopping`: set where it shall pause."""
        self.run, self.spec, self.machine, self._samples = run, spec, machine, samples
        self.config, self.facts, _ = run.read()
        self.world = world or World()
        self.trackers = trackers or Trackers(())
        self.stopping = stopping or threading.Event()
        self.paces: list[float] = []
        self.flops = 0.0
        self.held: list[tuple[int, float]] = []
        """(step, mean of the held-out loss) of each look, in order."""
        self._told = 0.0

    @property
    def first(self) -> bool:
        """One process writes."""
        return self.world.rank == 0

    def work(self) -> str:
        """To its end, whatever it is: one of `rundir.ENDS`. Raises `SprocketError` for what cannot be trained."""
        self.say("preparing", 0)
        trainer = self.prepare()
        try:
            end = self.steps(trainer)
            used = end != "failed" or self.sound(trainer)
            if used:
                self.finish(trainer)
        except StorageBlocked as error:
            self.ended("blocked", trainer.step, f"{error} Make room, then Resume.")
            return "blocked"
        if end == "failed":
            self.ended(end, trainer.step, f"{self.config.max_bad_steps} steps one after the other had no finite loss or gradient (NaN). "
                       f"The last good state is saved{', and what was trained until then can be used' if used else ''}. Likely cause: the "
                       "learning rate; begin a new run with a tenth of it.")
        else:
            self.ended(end, trainer.step, WORDS[end])
        return end

    # ---- before the first step

    def prepare(self) -> Trainer:
        config, facts, spec = self.config, self.facts, self.spec
        for name, now in (("fingerprint", spec.fingerprint), ("device", self.machine.device.split(":")[0])):
            if facts.get(name, now) != now:
                what = {"fingerprint": f"the base {spec.name}", "device": "the device"}[name]
                raise InvalidRequest("run", f"{what} is not what this run began with, so it cannot go on exactly ({facts[name][:12]} was, "
                                            f"{now[:12]} is). Put it back, or begin a new run.")
        shared = self.world.size if self.machine.device == "cpu" else 1
        threads = int(facts.get("threads") or config.threads or max(1, self.machine.cores // shared))
        deterministic(threads)
        choice = choose_memory(spec, config, self.machine, ranks=self.world.size)
        model = load_base(spec, config, self.machine, choice.streamed, choice.text)
        samples = self._samples(model)
        if facts.get("data", samples.digest) != samples.digest:
            raise InvalidRequest("dataset", "is not what this run began with: clips or captions were changed. Begin a new run with it; "
                                            "this one goes on if they are put back.")
        trainer = Trainer(model, config, samples, self.run, self.machine, policy=choice.policy, world=self.world)
        self.flops = choice.flops
        self.facts = facts | {"fingerprint": spec.fingerprint, "device": self.machine.device.split(":")[0], "threads": threads,
                              "data": samples.digest, "clips": len(samples.train), "held_out": len(samples.held_out),
                              "dtype": precision_of(config, self.machine),
                              "layers": len(trainer.adapter.parameters) // tensors_of_a_layer(config),
                              "processes": self.world.size,
                              "parameters": sum(p.numel() for p in trainer.adapter.parameters.values())}
        wrong = trainer.resume()
        if self.first:
            self.run.write(config, self.facts)
            for trouble in wrong:
                self.run.tell("warning", text=f"{trouble}: an older checkpoint is used.")
            if trainer.step or wrong or any(event["kind"] in ("step", "eval") for event in self.run.events()):  # killed before it saved
                self.run.tell("resumed", step=trainer.step)
        self.held = [(event["step"], sum(event["held_out"]) / len(event["held_out"])) for event in self.run.events()
                     if event["kind"] == "eval" and event.get("held_out")]
        return trainer

    @property
    def means(self) -> list[float]:
        return [mean for _, mean in self.held]

    # ---- steps

    def steps(self, trainer: Trainer) -> str:
        config, saved_at, saved_step = self.config, time.monotonic(), trainer.step
        if trainer.step == 0 and trainer.bad_steps == 0:
            self.look(trainer)
            self.show(trainer, scheduled=bool(self.config.preview_steps))
        while trainer.step < config.steps:
            wish = self.wish()
            if wish is not None:
                if trainer.step != saved_step:
                    trainer.save()
                return wish
            begun = time.monotonic()
            self.told(trainer, trainer.update())
            self.paces.append(time.monotonic() - begun)
            if trainer.bad_steps >= config.max_bad_steps:
                trainer.save()
                return "failed"
            self.look(trainer)
            late, asked, shown = self.agreed(time.monotonic() - saved_at >= config.save_seconds, self.run.asked("save"),
                                             self.run.asked("preview"))
            if late or asked or trainer.step % config.save_steps == 0 or trainer.step == config.steps:
                trainer.save()
                if asked:
                    self.export(trainer)
                if self.first:
                    self.run.granted("save") if asked else None
                    self.run.tell("saved", step=trainer.step)
                saved_at, saved_step = time.monotonic(), trainer.step
            self.show(trainer, scheduled=shown or (bool(config.preview_steps) and trainer.step % config.preview_steps == 0))
        return "done"

    def wish(self) -> str | None:
        """How the run shall end now, if it shall: 'paused' or 'stopped'."""
        stop, pause = self.agreed(self.run.asked("stop"), self.run.asked("pause") or self.stopping.is_set())
        return "stopped" if stop else "paused" if pause else None

    def agreed(self, *flags: bool) -> list[bool]:
        """Each flag, true where it is for any process: they must do the same, or one would wait for the others for ever."""
        if self.world.size == 1:
            return list(flags)
        import torch

        together = torch.tensor([1.0 if flag else 0.0 for flag in flags])
        self.world.add(together)
        return [value > 0 for value in together.tolist()]

    def told(self, trainer: Trainer, stepped: Stepped) -> None:
        """An update, in the log and wherever else it is wanted."""
        if not self.first:
            return
        loss, norm = (value if math.isfinite(value) else None for value in (stepped.loss, stepped.norm))  # NaN is no JSON
        self.run.tell("step", step=trainer.step, loss=loss, norm=norm, rate=stepped.rate,
                      times=list(stepped.times), seconds=round(trainer.seconds, 3))
        self.trackers.log({"loss": stepped.loss, "learning_rate": stepped.rate, "gradient_norm": stepped.norm}, trainer.step)
        if stepped.skipped:
            self.run.tell("warning", step=trainer.step, text=f"step {trainer.step}: the loss is {stepped.loss:g} and the gradient's norm "
                          f"{stepped.norm:g}, so nothing was changed. Times {list(stepped.times)}, clips {', '.join(stepped.clips)}.")
        if time.monotonic() - self._told >= BEAT_SECONDS:
            left = median(self.paces[-RECENT:]) * (self.config.steps - trainer.step) if self.paces else None
            self.say("running", trainer.step, seconds_left=left, loss=loss)

    def look(self, trainer: Trainer) -> None:
        """The held-out loss where it is due, once for each step."""
        every = self.config.eval_steps
        if not every or (trainer.step % every and trainer.step != self.config.steps) or not trainer.looks:
            return
        found = trainer.look()
        if not self.first:
            return
        self.run.tell("eval", step=trainer.step, held_out=list(found.held_out), train=list(found.train))
        if found.held_out:
            self.held.append((trainer.step, sum(found.held_out) / len(found.held_out)))
            self.trackers.log({f"held_out/{int(q * 100)}": value for q, value in zip(evaluate.QUANTILES, found.held_out, strict=True)}
                              | {"held_out/mean": self.means[-1]}, trainer.step)
            if evaluate.overfits(self.means):
                self.run.tell("warning", step=trainer.step, text=f"step {trainer.step}: the held-out loss rose {evaluate.RISES} times "
                              "one after the other: the run is learning its clips by heart. An earlier checkpoint may be better.")

    def show(self, trainer: Trainer, *, scheduled: bool) -> None:
        """Preview clips, if they are due or asked for. What goes wrong with one is no reason to stop training."""
        if not scheduled or not (self.first or trainer.sharded):
            return
        if self.config.method == "stage-two":
            self.run.granted("preview")
            if trainer.step == 0:
                self.run.tell("warning", step=0, text="Stage two has no previews: its held-out loss says how it goes.")
            return
        if self.first:
            self.run.granted("preview")
        held = trainer.samples.held_out or trainer.samples.train
        prompts = self.config.preview_prompts or (held[0].caption,)
        start = held[0] if self.spec.modes[0] == "i2v" else None
        folder = self.run.previews / (f"step-{trainer.step:08d}" if self.first else f".rank-{self.world.rank}")
        self.say("previewing", trainer.step)
        for number, prompt in enumerate(prompts):
            try:
                preview(trainer.model, trainer.adapter, self.config, self.machine, prompt, folder, number=number, start=start,
                        cancelled=lambda: not trainer.sharded and (self.stopping.is_set() or self.run.asked("pause")
                                                                   or self.run.asked("stop")),
                        tell=lambda done, of: self.say("previewing", trainer.step, f"Preview: {done} of {of}."))
            except Cancelled:
                return
            except StorageBlocked:
                raise
            except SprocketError as error:
                self.run.tell("warning", step=trainer.step, text=f"step {trainer.step}: no preview of {prompt[:60]!r}: {error}")
                continue
            if not self.first:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            self.run.tell("preview", step=trainer.step, number=number, prompt=prompt, file=f"{folder.name}/{number}.mp4")
        self._told = 0.0

    # ---- the end

    def finish(self, trainer: Trainer) -> None:
        """What was trained as a file, in whatever state it is: a stopped run's can be used too."""
        self.say("saving", trainer.step)
        if self.first and self.paces:  # forecasts of the next run go by it
            self.facts |= {"flops_per_second": self.flops / median(self.paces)}
            self.run.write(self.config, self.facts)
        self.export(trainer)
        self.trackers.close()

    def sound(self, trainer: Trainer) -> bool:
        """Whether all that was trained is finite, for every process."""
        import torch

        def finite(one: Any) -> bool:  # of what is shared out, this process's part
            return bool(torch.isfinite(one.to_local() if hasattr(one, "to_local") else one).all())

        return not self.agreed(not all(map(finite, trainer.adapter.parameters.values())))[0]

    def export(self, trainer: Trainer) -> Path:
        """What was trained, as others read it, in the run's folder."""
        final = trainer.adapter.final() if self.first or trainer.adapter.shared_out else {}
        if not self.first:
            return self.run.result(self.config)
        return self.export_lora(trainer, final) if self.config.method == "lora" else self.export_model(trainer, final)

    def export_model(self, trainer: Trainer, final: Mapping[str, Any]) -> Path:
        """A model folder in diffusers layout."""
        config, path = self.config, self.run.model_folder(self.config.name)
        facts = {"base": base_name(self.spec), "base_fingerprint": self.spec.fingerprint, "step": trainer.step, "held_out": self.means,
                 "dataset": trainer.samples.digest, "config": config.to_json() | {"model": base_name(self.spec)}}
        if isinstance(trainer.adapter, StageTwoWeights):
            stage = trainer.adapter
            save_model(self.spec.path, {}, path, facts, lambda folder: write_stage_two(folder, stage, self.spec, trainer.step))
        else:
            save_model(self.spec.path, final, path, facts)
        self.run.tell("exported", step=trainer.step, file=path.name)
        return path

    def export_lora(self, trainer: Trainer, final: Mapping[str, Any]) -> Path:
        """<name>.safetensors and README.md in the run's `lora` folder."""
        config = self.config
        layers = export.of_adapter(final, config.effective_alpha, rslora=config.rslora)
        magnitudes = {name: tensor for name, tensor in final.items() if "magnitude" in name}
        path = self.run.lora_file(config.name)
        notes = notes_of(config, self.spec, trainer.step, trainer.samples.digest)
        export.save_lora(path, layers, notes, extra=magnitudes)
        shown = [(event["prompt"], f"../previews/{event['file']}") for event in self.run.events() if event["kind"] == "preview"
                 and event["step"]][-4:]
        text = card(config, base=base_name(self.spec), facts=self.facts | {"step": trainer.step}, previews=shown, held_out=self.held,
                    i2v=self.spec.modes[0] == "i2v")
        write_atomic(path.with_name("README.md"), text.encode())
        self.run.tell("exported", step=trainer.step, file=path.name, sha256=file_sha256(path))
        return path

    def say(self, state: str, step: int, message: str = "", *, seconds_left: float | None = None, loss: float | None = None) -> None:
        """Where it stands. A word that a full disk eats is no reason to stop: what has to be kept will say so itself."""
        if self.first:
            self._told = time.monotonic()
            with contextlib.suppress(StorageBlocked):
                self.run.set_state(RunState(state, step, self.config.steps, message, seconds_left, loss), alive=True)

    def ended(self, state: str, step: int, message: str) -> None:
        """How it ended."""
        if self.first:
            self.run.settle(RunState(state, step, self.config.steps, message))


def tensors_of_a_layer(config: TrainConfig) -> int:
    """Trained tensors of each layer: a LoRA's two matrices, and DoRA's magnitude."""
    return 1 if config.method != "lora" else 3 if config.dora else 2


def base_name(spec: ModelSpec) -> str:
    """What a card calls the base: its hub id or name, never where it lies."""
    return spec.name if not Path(spec.name).is_absolute() else Path(spec.name).name


def notes_of(config: TrainConfig, spec: ModelSpec, step: int, digest: str) -> dict[str, str]:
    """What the exported file says about itself (https://github.com/Stability-AI/ModelSpec, and what others read)."""
    notes = {"modelspec.title": config.name, "modelspec.architecture": f"{spec.family}/lora", "sprocket.base": base_name(spec),
             "sprocket.base_fingerprint": spec.fingerprint, "sprocket.step": str(step), "sprocket.dataset": digest,
             "sprocket.caption_dropout": f"{config.caption_dropout:g}", "sprocket.seed": str(config.seed)}
    return notes | ({"modelspec.trigger_phrase": config.trigger} if config.trigger else {})


def stop_on_signals(session: Session) -> None:
    """SIGTERM and SIGINT pause: the present step is finished and saved."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: set_in_handler(session.stopping))
