"""Caches and the gate: off is off, nothing reaches the next job, resumed = uninterrupted, and what is skipped is really skipped."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.cache.broadcast import Broadcast
from engine.cache.first_block import FirstBlock
from engine.cache.gate import first_gated
from engine.cache.magnitude import Magnitude, read_changes, with_changes
from engine.cache.measured import measured, row_of, table, words, work_share
from engine.cache.shortcut import Shortcut
from engine.cache.taylor import Taylor, differences, predicted
from engine.errors import Cancelled, CannotFit, InvalidRequest
from engine.events import Event, Resumed, Stage, StepDone
from engine.models.cache import ModelCache
from engine.plan import Plan, check_executable
from engine.run import Job, run
from engine.video.recipe import build_recipe

STEPS = 12
CHANGES = (0.1,) * 4 + (0.02,) * 8
KINDS = ("rope", "sincos", "1.5", "i2v-rope", "i2v-1.5")
POLICIES = {"first-block": FirstBlock(threshold=10.0, most=2), "magcache": Magnitude(threshold=0.03, most=2),
            "taylorseer": Taylor(every=0.25, order=2)}
"""That skip something in a few steps of random weights."""
LOSSY = [("first-block", 1.0), ("pab", 1.0), ("magcache", 1.0), ("taylorseer", 1.0), ("off", 0.5), ("taylorseer", 0.5),
         ("first-block", 0.5), ("pab", 0.5)]


@pytest.fixture
def job_of(tiny_plan: Callable[..., Plan]) -> Callable[..., Plan]:
    def make(kind: str = "rope", **fields: Any) -> Plan:
        image = {"image": "0" * 64 + ".png"} if kind.startswith("i2v") else {}
        return tiny_plan(kind, steps=STEPS, **(image | fields))

    return make


@pytest.fixture(autouse=True)
def skipping(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.cache import shortcut

    for name, policy in POLICIES.items():
        monkeypatch.setitem(shortcut.POLICIES, name, policy)


class Counting:
    """Counts how often each block of a model and each attention is run."""

    def __init__(self, model: Any) -> None:
        self.blocks = [0] * len(model.transformer.transformer_blocks)
        self.attentions = 0
        self.rows = 0
        self.hooks = []
        for number, block in enumerate(model.transformer.transformer_blocks):
            self.hooks.append(block.register_forward_pre_hook(lambda *_, n=number: self._block(n)))
            self.hooks.append(block.attn1.register_forward_pre_hook(self._attention, with_kwargs=True))

    def _block(self, number: int) -> None:
        self.blocks[number] += 1

    def _attention(self, _module: Any, _args: Any, given: dict[str, Any]) -> None:
        self.attentions += 1
        self.rows += len(given["hidden_states"])

    def __enter__(self) -> Counting:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


def sampled(job: Plan, models: ModelCache, *, changes: Any = CHANGES, stop: int | None = None, start: Any = None, plain: bool = False,
            generator: Any = None) -> tuple[list[Any], Any, Any]:
    """(every state, the shortcut, the generator) of sampling, up to step `stop`."""
    import torch

    from engine.cache.shortcut import Shortcut
    from engine.guidance import guidance_weights
    from engine.sample import SampleState, sample

    model = models.get(job)
    generator = generator or torch.Generator().manual_seed(job.seed)
    text = model.encode(job.prompt, job.negative if job.guided else None)
    stepper = model.scheduler(job.scheduler, job.steps, eta=job.eta)
    weights = guidance_weights(job.guidance_kind, job.guidance, stepper.timesteps.tolist())
    noise = model.initial_latents(job.latent_shape, generator)
    beside = torch.randn(job.latent_shape, generator=torch.Generator().manual_seed(1)) if job.mode == "i2v" else None
    shortcut = None if plain else Shortcut(model, stepper, text, weights, cache=job.cache, gate=job.cfg_gate, beside=beside,
                                           changes=changes)
    states = []
    for state in sample(model, stepper, text, start or SampleState(0, noise, None), weights, generator, beside, shortcut):
        states.append(state)
        if state.step == stop:
            break
    return states, shortcut, generator


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("guidance", [1.0, 6.0])
def test_off_is_the_same_bits_as_no_cache_code(kind: str, guidance: float, job_of: Callable[..., Plan],
                                               cache_of: Callable[[Plan], ModelCache]) -> None:
    import torch

    job = job_of(kind, guidance=guidance)
    with_code, shortcut, _ = sampled(job, cache_of(job))
    without, _, _ = sampled(job, cache_of(job), plain=True)
    assert torch.equal(with_code[-1].latents, without[-1].latents)
    assert shortcut.full_steps == STEPS and with_code[-1].anchors == ()


@pytest.mark.parametrize(("cache", "gate"), LOSSY)
@pytest.mark.parametrize("kind", KINDS)
def test_work_is_skipped_and_the_model_is_left_as_it_was(kind: str, cache: str, gate: float, job_of: Callable[..., Plan],
                                                         cache_of: Callable[[Plan], ModelCache]) -> None:
    import torch

    job = job_of(kind, cache=cache, cfg_gate=gate)
    models = cache_of(job)
    with Counting(models.get(job)) as exact:
        plain, _, _ = sampled(replace(job, cache="off", cfg_gate=1.0), models, plain=True)
    before = [id(module) for module in models.get(job).transformer.modules()]
    with Counting(models.get(job)) as cached:
        states, shortcut, _ = sampled(job, models)
    assert [id(module) for module in models.get(job).transformer.modules()] == before
    assert torch.isfinite(states[-1].latents).all()
    assert not torch.equal(states[-1].latents, plain[-1].latents)
    assert cached.rows < exact.rows
    if cache in ("magcache", "taylorseer"):  # a skipped step runs no block at all
        assert cached.blocks == [shortcut.full_steps] * len(cached.blocks) and shortcut.full_steps < STEPS
    elif cache == "first-block":
        assert cached.blocks[0] == STEPS and cached.blocks[1] == shortcut.full_steps < STEPS
    elif cache == "pab":
        assert cached.blocks == exact.blocks and cached.attentions == shortcut.full_steps * len(cached.blocks) < exact.attentions
    if (cache, gate) == ("off", 0.5):
        assert (exact.rows, cached.rows) == (2 * STEPS * 3, (2 * STEPS - STEPS // 2) * 3)
    again, _, _ = sampled(replace(job, cache="off", cfg_gate=1.0), models, plain=True)
    assert torch.equal(again[-1].latents, plain[-1].latents)


@pytest.mark.parametrize(("cache", "gate"), LOSSY)
@pytest.mark.parametrize("stop", [4, 7, 9, 11])
def test_resumed_is_uninterrupted(stop: int, cache: str, gate: float, job_of: Callable[..., Plan],
                                  cache_of: Callable[[Plan], ModelCache]) -> None:
    import torch

    # Only without fresh noise TaylorSeer has differences to come back to.
    job = job_of("rope", cache=cache, cfg_gate=gate, scheduler="ddim" if cache == "taylorseer" else "dpm")
    models = cache_of(job)
    whole, shortcut, _ = sampled(job, models)
    assert shortcut.kept.order == (2 if cache == "taylorseer" else 0)
    begun, _, generator = sampled(job, models, stop=stop)
    assert torch.equal(begun[-1].latents, whole[stop - 1].latents)
    assert len(begun[-1].anchors) <= 4
    held = torch.Generator().manual_seed(5)  # `sampled` draws the start from it first, so set its state through a copy
    held.set_state(generator.get_state())
    rest = resumed(job, models, begun[-1], held)
    assert [s.step for s in rest] == list(range(stop + 1, STEPS + 1))
    for state in rest:
        assert torch.equal(state.latents, whole[state.step - 1].latents)


def resumed(job: Plan, models: ModelCache, start: Any, generator: Any) -> list[Any]:
    from engine.cache.shortcut import Shortcut
    from engine.guidance import guidance_weights
    from engine.sample import sample

    model = models.get(job)
    text = model.encode(job.prompt, job.negative)
    stepper = model.scheduler(job.scheduler, job.steps)
    weights = guidance_weights(job.guidance_kind, job.guidance, stepper.timesteps.tolist())
    shortcut = Shortcut(model, stepper, text, weights, cache=job.cache, gate=job.cfg_gate, changes=CHANGES)
    return list(sample(model, stepper, text, start, weights, generator, None, shortcut))


def go(job: Plan, folder: Path, models: ModelCache, cancelled: Callable[[], bool] = lambda: False, **more: Any) -> list[Event]:
    return list(run(job, part=folder / "clip.part", workspace=folder / "work", recipe=build_recipe(job), models=models,
                    cancelled=cancelled, calibrations=folder.parent / "calibrations", **more))


def made(job: Plan, folder: Path, models: ModelCache) -> list[bytes]:
    """The frames of the clip, as they come out of the file."""
    go(job, folder, models)
    return frames(folder)


@pytest.mark.parametrize("cache", ["first-block", "pab", "magcache", "taylorseer"])
def test_a_cancelled_run_leaves_nothing_and_goes_on_to_the_same_clip(cache: str, tmp_path: Path, job_of: Callable[..., Plan],
                                                                     cache_of: Callable[[Plan], ModelCache]) -> None:
    job = job_of("rope", cache=cache, cfg_gate=0.75)
    other = replace(job, prompt="a blue bird", seed=11)
    models = cache_of(job)
    if cache == "magcache":  # the first clip calibrates
        go(job, tmp_path / "calibrating", models)
    expected = made(job, tmp_path / "whole", models)
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 10

    with pytest.raises(Cancelled):
        go(other, tmp_path / "cancelled", models, cancelled)
    assert made(job, tmp_path / "after", models) == expected
    asked = 0
    with pytest.raises(Cancelled):
        go(job, tmp_path / "stopped", models, cancelled)
    events = go(job, tmp_path / "stopped", models)
    assert next(e.step for e in events if isinstance(e, Resumed)) >= 6
    assert frames(tmp_path / "stopped") == expected


def test_magcache_calibrates_once_for_each_schedule(tmp_path: Path, job_of: Callable[..., Plan],
                                                    cache_of: Callable[[Plan], ModelCache]) -> None:
    job = job_of("rope", cache="magcache")
    models, kept = cache_of(job), tmp_path / "calibrations" / f"{job.spec.fingerprint}.json"
    plain = made(replace(job, cache="off"), tmp_path / "plain", models)
    first = go(job, tmp_path / "first", models)
    assert [e.step for e in first if isinstance(e, StepDone) and e.stage is Stage.SAMPLE] == list(range(1, STEPS + 1))
    changes = json.loads(kept.read_text())["changes"]
    assert list(changes) == [f"dpm-{STEPS}"] and len(changes[f"dpm-{STEPS}"]) == STEPS
    assert frames(tmp_path / "first") == plain  # nothing was skipped yet
    kept.write_text(with_changes(kept, job.spec.fingerprint, f"dpm-{STEPS}", [0.0] * STEPS))
    assert made(job, tmp_path / "second", models) != plain
    kept.write_text("{ not json")
    assert made(job, tmp_path / "third", models) == plain
    assert json.loads(kept.read_text())["changes"] == changes


def frames(folder: Path) -> list[bytes]:
    import av

    with av.open(str(folder / "clip.part")) as file:
        return [frame.to_ndarray(format="rgb24").tobytes() for frame in file.decode(video=0)]


def test_changes_of_another_checkpoint_schedule_or_shape_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    assert read_changes([path], "f", "dpm", 3, 3) is None
    path.write_text(with_changes(path, "f", "dpm-3", [0.0, 1.1, 0.9]))
    assert read_changes([tmp_path / "none.json", path], "f", "dpm", 3, 3) == (0.0, 1.1, 0.9)
    assert read_changes([path], "f", "dpm", 3, 2) == (1.1, 0.9)  # the last steps of a video that is changed
    for other in (("g", "dpm", 3, 3), ("f", "ddim", 3, 3), ("f", "dpm", 4, 4)):
        assert read_changes([path], *other) is None
    path.write_text(with_changes(path, "f", "dpm-2", [1.0, 1.0]))
    assert set(json.loads(path.read_text())["changes"]) == {"dpm-3", "dpm-2"}
    for bad in ([1.0, 1.0], [1.0, float("inf"), 1.0], [1.0, -1.0, 1.0], [1.0, True, 1.0], "abc", None):
        path.write_text(json.dumps({"version": 1, "fingerprint": "f", "changes": {"dpm-3": bad}}))
        assert read_changes([path], "f", "dpm", 3, 3) is None


@pytest.mark.parametrize(("cache", "gate"), [("off", 1.0), ("off", 0.5), ("pab", 1.0), ("magcache", 1.0), ("taylorseer", 1.0),
                                             ("taylorseer", 0.5)])
def test_the_time_left_is_that_of_what_is_still_run(cache: str, gate: float, tiny_plan: Callable[..., Plan], tmp_path: Path) -> None:
    import torch

    plain, job = (tiny_plan("rope", steps=50, **more) for more in ({}, {"cache": cache, "cfg_gate": gate}))
    stepper: Any = SimpleNamespace(timesteps=torch.arange(990, -1, -20), fresh_noise=False)
    shortcut = Shortcut(SimpleNamespace(), stepper, torch.zeros(2, 1, 1), [6.0] * 50, cache=cache, gate=gate,  # type: ignore[arg-type]
                        changes=CHANGES[:4] * 5 + CHANGES[4:5] * 30)
    schedule = (True,) * 50 if cache == "off" else shortcut.act.schedule
    skipped = row.skipped_cost if (row := row_of(cache, 1.0)) else 0.0
    took = [4.0 * (1.0 if full else skipped) * (1.0 if index < 50 * gate else 0.5) for index, full in enumerate(schedule)]
    decoding = 4.0 * 50 * plain.work["decode"] / plain.work["sample"]
    assert cache == "off" or 15 < sum(schedule) < 50
    state = Job(job, tmp_path, tmp_path, {}, ModelCache(), lambda: False, 30, 1, None, None, None)
    used = None if (cache, gate) == ("off", 1.0) else shortcut
    for start, step in ((0, 1), (0, 13), (0, 24), (0, 37), (0, 50), (22, 44)):
        assert state.eta_sampling(step, took[start:step], used) == pytest.approx(sum(took[step:]) + decoding)
    assert state.eta_sampling(27, [4.0], used) > decoding / 2  # gone on with, at a step of which nothing may be run


def test_where_the_model_decides_the_measured_share_is_what_is_left(tiny_plan: Callable[..., Plan], tmp_path: Path) -> None:
    import torch

    plain, job = (tiny_plan("rope", steps=50, **more) for more in ({}, {"cache": "first-block"}))
    stepper: Any = SimpleNamespace(timesteps=torch.arange(990, -1, -20), fresh_noise=False)
    shortcut = Shortcut(SimpleNamespace(), stepper, torch.zeros(2, 1, 1), [6.0] * 50, cache="first-block")  # type: ignore[arg-type]
    state = Job(job, tmp_path, tmp_path, {}, ModelCache(), lambda: False, 30, 1, None, None, None)
    decoding = 50 * plain.work["decode"] / plain.work["sample"]
    expected = 50 * work_share("first-block", 1.0, 50, True) + decoding
    assert 10 + state.eta_sampling(10, [1.0] * 10, shortcut) == pytest.approx(expected, rel=0.05)


def test_schedules() -> None:
    taylor = Taylor(every=0.3, retained=0.2, last=1)
    assert taylor.schedule(10) == (True, True, False, False, True, False, False, True, False, True)
    assert Taylor(every=0.1).schedule(4) == (True,) * 4
    assert Broadcast(every=2, high=850, low=100).schedule((950, 800, 600, 400, 200, 50)) == (True, False, True, False, True, True)
    magnitude = Magnitude(threshold=0.05, most=2, retained=0.25, last=1)
    assert magnitude.schedule((0.01,) * 8) == (True, True, False, False, True, False, False, True)
    assert magnitude.schedule((0.0, 0.0, 0.03, 0.04, 0.03, 0.06, 0.0, 0.0)) == (True, True, False, False, True, True, False, True)
    assert magnitude.schedule((float("nan"),) * 4) == (True,) * 4
    assert [first_gated(share, 50) for share in (0.001, 0.5, 0.99, 1.0)] == [1, 25, 49, 50]
    first = FirstBlock(threshold=0.1, retained=0.2, last=1, most=3)
    assert [first.decide(step, 10, 1, 0.05) for step in (1, 2, 8, 9)] == [True, False, False, True]
    assert [first.decide(5, 10, since, 0.05) for since in (3, 4)] == [False, True]
    assert [first.decide(5, 10, 1, change) for change in (0.1, float("nan"))] == [True, True]


def test_a_polynomial_of_that_order_is_predicted_exactly() -> None:
    line: list[float] = []
    for step in (0, 3, 6):
        line = differences(line, 5.0 - 2.0 * step, 3, 1)
    assert line == [-7.0, -2.0] and predicted(line, 2) == 5.0 - 2.0 * 8
    flat = differences(differences([], 4.0, 1, 0), 6.0, 1, 0)
    assert flat == [6.0] and predicted(flat, 5) == 6.0


def test_plans_say_what_is_lossy(job_of: Callable[..., Plan]) -> None:
    job = job_of("rope", cache="taylorseer", cfg_gate=0.5)
    assert (job.cache, job.cfg_gate, job.quality) == ("taylorseer", 0.5, "fast")
    assert any("TaylorSeer" in note for note in job.notes) and any("50% of the steps" in note for note in job.notes)
    exact = job_of("rope")
    assert (exact.cache, exact.cfg_gate, exact.quality) == ("off", 1.0, "lossless")
    assert not any("changes the picture" in note for note in exact.notes)
    assert 0 < job.work["sample"] < exact.work["sample"]
    assert job.request().cache == "taylorseer" and job.request().cfg_gate == 0.5
    assert build_recipe(job)["request"]["cache"] == "taylorseer"
    kept = {cache: job_of("rope", cache=cache).forecast.stages["sample"] for cache in ("first-block", "pab")}
    assert kept["pab"] > exact.forecast.stages["sample"] and kept["first-block"] > exact.forecast.stages["sample"]


@pytest.mark.parametrize(("fields", "field", "words"), [
    ({"cache": "tea"}, "cache", "first-block, pab, magcache, taylorseer"),
    ({"cache": 3}, "cache", "not known"),
    ({"cfg_gate": 0.0}, "cfg_gate", "more than 0"),
    ({"cfg_gate": 1.5}, "cfg_gate", "0 to 1"),
    ({"cfg_gate": float("nan")}, "cfg_gate", "0 to 1"),
    ({"cfg_gate": "half"}, "cfg_gate", "number"),
    ({"cfg_gate": 0.5, "guidance": 1.0}, "cfg_gate", "guidance above 1"),
])
def test_refusals(fields: dict[str, Any], field: str, words: str, job_of: Callable[..., Plan]) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        job_of("rope", **fields)
    assert caught.value.field == field


@pytest.mark.parametrize("fields", [{"cache": "pab"}, {"cfg_gate": 0.5}])
def test_better_quality_refuses_lossy_choices(fields: dict[str, Any], job_of: Callable[..., Plan], tiny: Callable[..., Path]) -> None:
    from engine.choices import Policy
    from engine.plan import plan
    from tests.engine.tiny import CPU

    job = job_of("rope", **fields)
    for quality in ("lossless", "near-lossless"):
        with pytest.raises(InvalidRequest, match=f"quality {quality}"):
            plan(job.request(), job.spec, CPU, Policy(quality=quality))
    assert plan(job.request(), job.spec, CPU, Policy(quality="fast")).quality == "fast"


def test_pab_does_not_go_with_chunks(job_of: Callable[..., Plan]) -> None:
    job = job_of("rope", cache="pab")
    check_executable(job)
    with pytest.raises(CannotFit, match="pab"):
        check_executable(replace(job, placement=replace(job.placement, feed_forward="chunked")))


def test_the_docs_show_what_was_measured() -> None:
    text = (Path(__file__).parents[2] / "docs" / "speed.md").read_text()
    assert measured().rows and [line for line in table() if line not in text] == []
    best = next(row for row in measured().rows if (row.cache, row.cfg_gate) == ("magcache", 1.0))
    assert any(f"{best.flops_ratio:.1f} times less arithmetic" in sentence for sentence in words("magcache", 1.0))
    assert words("off", 1.0) == []
    assert work_share("off", 1.0, 50, True) == 1.0
    assert work_share("off", 0.5, 50, True) == 0.75 and work_share("off", 0.5, 50, False) == 1.0
    assert work_share("taylorseer", 1.0, 50, True) == 0.4
    assert work_share("magcache", 1.0, 50, True) == pytest.approx(1 / best.flops_ratio)
