"""Key frames and rounds on tiny true architectures: what is known stays, what was interrupted ends the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.cache.magnitude import read_changes, with_changes
from engine.digest import file_sha256
from engine.errors import AwaitingReview, Cancelled, InvalidRequest, MemoryRanOut, ModelInvalid
from engine.events import ClipWritten, Event, Resumed, StepDone
from engine.interpolate.adapter import FILE, Facts, load_adapter, read_facts, write_adapter
from engine.interpolate.conditioning import beside, filled, fold_mask
from engine.interpolate.interpolator import Interpolator, Window, give_back
from engine.interpolate.planning import blocks_at_once, stage_two_plan
from engine.interpolate.stage_two import StageTwo
from engine.interpolate.store import FrameStore
from engine.models.cache import ModelCache
from engine.models.cogvideox import CogVideoX
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from engine.run import run
from engine.spec import read_spec
from tests.engine.test_plan import GPU
from tests.engine.test_plan import SPEC as BIG
from tests.engine.tiny import CPU, save_tiny
from tests.lora_files import lora_weights, save_lora

WORDS = "a fox"


def transformer_of(folder: Path) -> Any:
    from diffusers import CogVideoXTransformer3DModel

    return CogVideoXTransformer3DModel.from_pretrained(folder / "transformer").eval()


def trained(base: Any, seed: int = 3) -> StageTwo:
    """A stage two whose every part has an effect, as after training."""
    stage = StageTwo(base, 4, rank=2, modulation_rank=1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return stage


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny text-to-video model with a stage-two adapter in its folder."""
    folder = save_tiny(tmp_path_factory.mktemp("hierarchy") / "tiny")
    facts = Facts(base=read_spec(folder, "tiny").fingerprint, layout="frames", slots=5, channels=4, rank=2, modulation_rank=1, steps=2)
    write_adapter(folder / FILE, trained(transformer_of(folder)), facts, dtype=torch.float32)
    return folder


def planned(folder: Path, **fields: Any) -> Plan:
    wish = {"prompt": WORDS, "model": str(folder), "steps": 2, "seed": 5, "guidance": 1.0, "frames": 9, "key_frames": 3} | fields
    return plan(GenerationRequest(**wish), read_spec(folder, "tiny"), CPU)


def going(job: Plan, workspace: Path, models: ModelCache, **options: Any) -> Iterator[Event]:
    return run(job, part=workspace / "clip.part.mp4", workspace=workspace / "work", recipe={"request": {"model": "m", "seed": 1},
               "app_version": "0"}, models=models, cancelled=options.pop("cancelled", lambda: False), **options)


def made(job: Plan, workspace: Path, models: ModelCache, **options: Any) -> list[Event]:
    return list(going(job, workspace, models, **options))


@pytest.fixture(scope="module")
def models() -> Any:
    cache = ModelCache()
    yield cache
    cache.close()


def frames_in(workspace: Path) -> dict[str, bytes]:
    """Every stored frame by name, as pixels."""
    return {path.name: np.array(Image.open(path)).tobytes() for path in sorted((workspace / "work").rglob("*.png"))}


# ---- conditioning


def test_a_folded_mask_keeps_every_single_frame() -> None:
    bits = fold_mask([0, 16], 17, "packed")
    assert bits.shape == (5, 4)
    assert bits[0].tolist() == [1, 1, 1, 1] and bits[4].tolist() == [0, 0, 0, 1]  # a resized mask would say 0 here
    assert fold_mask([8], 17, "packed").nonzero().tolist() == [[2, 3]]
    assert fold_mask([1], 3, "frames").tolist() == [[0] * 4, [1] * 4, [0] * 4]
    for known, frames in (([17], 17), ([-1], 17)):
        with pytest.raises(ValueError, match="known frame"):
            fold_mask(known, frames, "packed")
    with pytest.raises(ValueError, match="4k"):
        fold_mask([0], 16, "packed")


def test_unknown_slots_between_known_ones_hold_their_blend() -> None:
    latents = torch.arange(5.0).view(1, 5, 1, 1, 1).expand(1, 5, 2, 2, 2)
    real = torch.tensor([[True, False, False, True, False]])
    assert filled(latents, real)[0, :, 0, 0, 0].tolist() == pytest.approx([0, 1, 2, 3, 0])
    assert not filled(latents, torch.zeros(1, 5, dtype=torch.bool)).any()


@pytest.mark.parametrize("kind", ["rope", "i2v-sincos", "1.5", "i2v-1.5"])
def test_an_untrained_stage_two_is_its_base(tiny: Callable[..., Path], kind: str) -> None:
    base = transformer_of(tiny(kind))
    stage = StageTwo(base, 4, rank=2, modulation_rank=1)
    stage.fps = torch.tensor([8.0])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 4, 4, 8, 12, generator=generator)
    image = torch.randn(1, 4, 4, 8, 12, generator=generator)
    mask = fold_mask([0], 4, "frames")[None]
    given = beside(image, mask)
    assert torch.equal(given[:, 1:, :4], torch.zeros(1, 3, 4, 8, 12))  # image to video has zeros behind its first frame too
    text = torch.randn(1, 16, 32, generator=generator)
    rope = _rope(base)
    call = {"encoder_hidden_states": text, "timestep": torch.tensor([500]), "image_rotary_emb": rope, "return_dict": False}
    if base.config.ofs_embed_dim:
        call["ofs"] = torch.tensor([2.0])
    with torch.no_grad():
        narrow = torch.cat([noise, given[:, :, :4]], dim=2) if kind.startswith("i2v") else noise
        before = base(hidden_states=narrow, **call)[0]
        with stage.installed():
            during = base(hidden_states=torch.cat([noise, given], dim=2), **call)[0]
        after = base(hidden_states=narrow, **call)[0]
    assert torch.allclose(before, during, atol=1e-5)
    assert torch.equal(before, after)


def _rope(base: Any) -> Any:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    if not base.config.use_rotary_positional_embeddings:
        return None
    if base.config.patch_size_t:
        return get_3d_rotary_pos_embed(embed_dim=16, crops_coords=None, grid_size=(4, 6), temporal_size=2, grid_type="slice",
                                       max_size=(4, 6))
    return get_3d_rotary_pos_embed(embed_dim=16, crops_coords=((0, 0), (4, 6)), grid_size=(4, 6), temporal_size=4)


def test_the_rate_is_heard_once_it_is_trained(model: Path) -> None:
    base = transformer_of(model)
    stage = load_adapter(model / FILE, base, read_facts(model / FILE))
    call = {"hidden_states": torch.zeros(2, 3, 12, 8, 12), "encoder_hidden_states": torch.zeros(2, 16, 32), "return_dict": False,
            "timestep": torch.tensor([5, 5]), "image_rotary_emb": None}
    with torch.no_grad(), stage.installed():
        with pytest.raises(RuntimeError, match="frame rate"):
            base(**call)
        stage.fps = torch.tensor([1.0, 8.0])
        slow, quick = base(**call)[0]
    assert not torch.allclose(slow, quick)


@pytest.mark.parametrize("change", ["cut", "other", "nan", "text"])
def test_a_damaged_adapter_is_named(model: Path, tmp_path: Path, change: str) -> None:
    path = tmp_path / FILE
    data = (model / FILE).read_bytes()
    if change == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif change == "text":
        path.write_bytes(b"not a file of weights")
    else:
        stage = trained(transformer_of(model))
        if change == "nan":
            with torch.no_grad():
                stage.up[0][0, 0] = float("nan")
        facts = replace(read_facts(model / FILE), rank=3 if change == "other" else 2)
        write_adapter(path, stage, facts)
    with pytest.raises(ModelInvalid, match="stage2"):
        load_adapter(path, transformer_of(model), read_facts(path))


# ---- blocks


def test_batched_blocks_are_blocks_one_by_one(model: Path, models: ModelCache) -> None:
    job = planned(model)
    facts = read_facts(model / FILE)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(6)]
    windows = [Window((pictures[3 * n], None, pictures[3 * n + 1], None, pictures[3 * n + 2]), (1, 3), 77 + n, 4.0 + n) for n in range(2)]
    with Interpolator.opened(models.get(job), model / FILE, facts, prompt=WORDS, size=(64, 96), tile=(64, 96)) as maker:
        together = maker.make(windows)
        alone = [maker.make([window])[0] for window in windows]
    for batch, one in zip(together, alone, strict=True):
        assert batch.keys() == one.keys() == {1, 3}
        for slot in batch:
            # Batches are fixed by the plan; the last bits of a product may depend on how many rows it has.
            assert np.abs(batch[slot].astype(int) - one[slot]).max() <= 1


def test_what_rests_comes_back_as_it_was() -> None:
    rng = np.random.default_rng(1)
    known = rng.integers(60, 190, (8, 8, 3)).astype(np.uint8)
    blurred = (known.astype(int) + rng.integers(-2, 3, known.shape)).astype(np.uint8)
    assert np.abs(give_back(blurred, [(known, 1.0), (known, 1.0)]).astype(int) - known).max() <= 1
    elsewhere = np.full((8, 8, 3), 255, np.uint8)  # nothing like the known frame: left alone
    assert np.array_equal(give_back(elsewhere, [(known // 4, 1.0)]), elsewhere)


# ---- the whole run


def picture(folder: Path, size: tuple[int, int], colour: tuple[int, int, int]) -> str:
    image = Image.new("RGB", size, colour)
    image.paste((250, 250, 20), (3, 3, 30, 20))
    folder.mkdir(exist_ok=True)
    path = folder / "picture.png"
    image.save(path)
    name = f"{file_sha256(path)}.png"
    path.rename(folder / name)
    return name


def test_known_frames_stand_in_the_clip_bit_for_bit(model: Path, models: ModelCache, tmp_path: Path) -> None:
    first = picture(tmp_path / "inputs", (96, 64), (10, 90, 200))
    wide = picture(tmp_path / "inputs", (200, 64), (90, 10, 200))  # of another aspect: cropped, not stretched
    job = planned(model, given=((0, first), (8, wide)))
    assert job.hierarchy is not None and job.hierarchy.stage_one == "slots"
    events = made(job, tmp_path, models, inputs=tmp_path / "inputs")
    assert isinstance(events[-1], ClipWritten) and events[-1].frames == 9
    steps = [event for event in events if isinstance(event, StepDone) and event.stage.value == "sample"]
    assert steps[-1].step == steps[-1].steps == job.sampled_steps
    from engine.interpolate.hierarchy_run import HierarchyRun
    from engine.run import Job

    state = HierarchyRun(Job(job, tmp_path / "p", tmp_path / "work", {}, models, lambda: False, 30, 1, tmp_path / "inputs", None, None,
                             None), lambda one: None)  # type: ignore[arg-type,return-value]
    state.given = state._read_given(state.made.inputs)
    assert np.array_equal(state.known(0), np.array(Image.open(tmp_path / "inputs" / first)))
    assert np.array_equal(state.known(8), np.array(Image.open(tmp_path / "inputs" / wide))[:, 52:148])
    assert all(state.known(index) is not None for index in range(9))


def test_key_frames_out_of_a_clip_are_not_changed_by_the_rounds(model: Path, models: ModelCache, tmp_path: Path) -> None:
    job = planned(model)
    assert job.hierarchy is not None and job.hierarchy.stage_one == "clip"
    with pytest.raises(AwaitingReview):
        made(replace(job, hierarchy=replace(job.hierarchy, review=True)), tmp_path, models)
    keys = frames_in(tmp_path)
    assert set(keys) == {"key-000000.png", "key-000004.png", "key-000008.png"}
    made(job, tmp_path, models)
    after = frames_in(tmp_path)
    assert {name: after[name] for name in keys} == keys
    assert len(after) == 9


@pytest.mark.parametrize("profile", ["tiny", "balanced"])
def test_wherever_the_weights_are_the_frames_are_the_same(model: Path, models: ModelCache, tmp_path: Path, profile: str) -> None:
    made(planned(model, guidance=3.0), tmp_path / "resident", models)
    job = planned(model, guidance=3.0, profile=profile)
    with closing(ModelCache()) as others:
        made(job, tmp_path / "away", others)
    assert profile == "balanced" or job.placement.homes["transformer"].residency != "resident"
    assert frames_in(tmp_path / "away") == frames_in(tmp_path / "resident")


def test_key_frames_in_half_precision(model: Path, tmp_path: Path) -> None:
    with closing(ModelCache()) as models:
        assert isinstance(made(planned(model, precision="fp16"), tmp_path, models)[-1], ClipWritten)


@pytest.mark.parametrize(("part", "phase"), [("encode", "text"), ("predict", "sample"), ("decode", "decode")])
def test_memory_that_runs_out_for_the_key_frames_is_told_by_its_phase(model: Path, models: ModelCache, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch, part: str, phase: str) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def full_later(*_: Any, **__: Any) -> Iterator[Any]:
        yield full()

    monkeypatch.setattr(CogVideoX, part, full_later if part == "decode" else full)
    with pytest.raises(MemoryRanOut) as caught:
        made(planned(model), tmp_path, models)
    assert caught.value.phase == phase


@pytest.mark.parametrize("there", ["nothing", "a file", "a folder"])
def test_key_frames_keep_magnitudes_where_other_clips_look(model: Path, models: ModelCache, tmp_path: Path, there: str) -> None:
    job = planned(model, cache="magcache", guidance=3.0, steps=4)
    file = tmp_path / "calibrations" / f"{job.spec.fingerprint}.json"
    if there == "a file":  # of an ordinary clip
        file.parent.mkdir()
        file.write_text(with_changes(file, job.spec.fingerprint, "dpm-7", [0.5] * 7))
    elif there == "a folder":  # as key frames left it once
        file.mkdir(parents=True)
        (file / file.name).write_text(with_changes(file / file.name, job.spec.fingerprint, "dpm-7", [0.5] * 7))
    made(job, tmp_path, models, calibrations=file.parent)
    assert list(file.parent.rglob("*")) == [file] and file.is_file()
    assert len(read_changes([file], job.spec.fingerprint, job.scheduler, 4, 4) or ()) == 4
    assert (read_changes([file], job.spec.fingerprint, "dpm", 7, 7) is not None) == (there == "a file")


def test_rounds_have_no_lora_of_an_earlier_job(model: Path, models: ModelCache, tmp_path: Path) -> None:
    video = picture(tmp_path / "inputs", (96, 64), (10, 90, 200))
    job = planned(model, given=((0, video),))
    made(job, tmp_path / "before", models, inputs=tmp_path / "inputs")
    file = save_lora(tmp_path / "lora.safetensors", lora_weights(model))
    (tmp_path / "loras").mkdir()
    name = file.rename(tmp_path / "loras" / f"{file_sha256(file)}.safetensors").name
    loaded = models.get(stage_two_plan(job))
    loaded.loras.use(((name, 1.0),), tmp_path / "loras")
    made(job, tmp_path / "after", models, inputs=tmp_path / "inputs")
    assert frames_in(tmp_path / "after") == frames_in(tmp_path / "before")


def test_a_batch_of_blocks_is_no_larger_than_what_was_planned_for() -> None:
    big = plan(GenerationRequest(prompt="a fox", model="big"), BIG, GPU)
    slots = big.latent_shape[1]
    assert blocks_at_once("cuda:0", slots, big) == 2 and blocks_at_once("cuda:0", slots // 2, big) == 4
    assert blocks_at_once("cuda:0", slots, replace(big, placement=replace(big.placement, passes=2))) == 1
    assert blocks_at_once("cuda:0", slots, replace(big, predicted_bytes=2**20)) == 8
    assert blocks_at_once("cpu", slots // 4, big) == 2


@pytest.mark.parametrize("stop_at", [3, 8, 11])
def test_interrupted_is_uninterrupted(model: Path, models: ModelCache, tmp_path: Path, stop_at: int) -> None:
    whole = made(planned(model), tmp_path / "whole", models)[-1]
    asked = iter(range(10**6))
    with pytest.raises(Cancelled):
        made(planned(model), tmp_path / "cut", models, cancelled=lambda: next(asked) >= stop_at)
    resumed = made(planned(model), tmp_path / "cut", models)[-1]
    assert frames_in(tmp_path / "cut") == frames_in(tmp_path / "whole")
    assert isinstance(whole, ClipWritten) and isinstance(resumed, ClipWritten) and whole.sha256 == resumed.sha256


def test_a_damaged_frame_is_made_again(model: Path, models: ModelCache, tmp_path: Path) -> None:
    made(planned(model), tmp_path, models)
    before = frames_in(tmp_path)
    paths = {path.name: path for path in (tmp_path / "work").rglob("*.png")}
    paths["000003.png"].write_bytes(paths["000003.png"].read_bytes()[:40])
    paths["key-000004.png"].unlink()
    made(planned(model), tmp_path, models)
    assert frames_in(tmp_path) == before


def test_a_key_frame_made_anew_or_replaced_leaves_the_others(model: Path, models: ModelCache, tmp_path: Path) -> None:
    image = picture(tmp_path / "inputs", (96, 64), (10, 90, 200))
    job = planned(model, review=True)
    for edits in ((), ((4, 123),), ((4, 124), (8, image))):
        with pytest.raises(AwaitingReview):
            made(planned(model, review=True, edits=edits), tmp_path, models, inputs=tmp_path / "inputs")
    keys = frames_in(tmp_path)
    assert set(keys) == {"key-000000.png", "key-000004.png", "key-000008.png", "key-000004-again-123.png", "key-000004-again-124.png"}
    assert len(set(keys.values())) == 5
    last = made(planned(model, edits=((4, 124), (8, image))), tmp_path, models, inputs=tmp_path / "inputs")[-1]
    assert isinstance(last, ClipWritten)
    assert job.hierarchy is not None


@pytest.mark.parametrize("image", [False, True])
def test_the_first_edit_leaves_the_files_of_the_other_key_frames(model: Path, models: ModelCache, tmp_path: Path, image: bool) -> None:
    edit = (4, picture(tmp_path / "inputs", (96, 64), (10, 90, 200)) if image else 123)

    def until_review(**fields: Any) -> tuple[list[Event], dict[str, tuple[int, int]]]:
        events: list[Event] = []
        with pytest.raises(AwaitingReview):
            for event in going(planned(model, review=True, **fields), tmp_path, models, inputs=tmp_path / "inputs"):
                events.append(event)
        files = {path.name: path.stat() for path in (tmp_path / "work").rglob("key-*.png")}
        return events, {name: (found.st_ino, found.st_mtime_ns) for name, found in files.items()}

    events, before = until_review()
    assert len(before) == 3 and not any(isinstance(event, Resumed) for event in events)
    events, after = until_review(edits=(edit,))
    assert {name: after[name] for name in before if name in after} == before
    assert set(after) - set(before) == (set() if image else {"key-000004-again-123.png"})
    assert [event.step for event in events if isinstance(event, Resumed)] == [2]  # all of stage 1 was there


def test_a_second_key_frame_made_anew_leaves_the_first_as_it_was(model: Path, models: ModelCache, tmp_path: Path) -> None:
    def keys(folder: Path, *edits: tuple[int, int]) -> dict[str, bytes]:
        with pytest.raises(AwaitingReview):
            list(going(planned(model, review=True, edits=edits), folder, models))
        return {path.name: path.read_bytes() for path in (folder / "work").rglob("key-*-again-*.png")}

    first = keys(tmp_path / "a", (4, 123))
    both = keys(tmp_path / "a", (4, 123), (8, 77))
    assert len(first) == 1 and len(both) == 2 and first.items() <= both.items()
    assert keys(tmp_path / "b", (4, 123), (8, 77)) == both  # restored from the recipe, where both are there from the start


def test_another_request_begins_anew(model: Path, models: ModelCache, tmp_path: Path) -> None:
    made(planned(model), tmp_path, models)
    before = frames_in(tmp_path)
    made(planned(model, seed=6), tmp_path, models)
    assert frames_in(tmp_path) != before and len(frames_in(tmp_path)) == 9


def test_plans_come_back_from_their_own_request(model: Path) -> None:
    for fields in ({}, {"fps": 12.0}, {"frames": 17, "key_frames": 5}, {"given": ((4, "a" * 64 + ".png"),)},
                   {"frames": 2049, "key_frames": 3}):
        job = planned(model, **fields)
        assert job.request().frames == fields.get("frames", 9)
        assert planned(model, **{k: v for k, v in job.request().to_json().items() if k != "schema_version"}).request() == job.request()


def test_a_model_without_stage_two_says_what_to_do(tiny: Callable[..., Path]) -> None:
    with pytest.raises(InvalidRequest, match=r"stage2\.safetensors"):
        planned(tiny("rope"))


@pytest.mark.parametrize(("fields", "said"), [
    ({"loras": (("b" * 64 + ".safetensors", 1.0),)}, "loras: has no effect here"), ({"scheduler": "ddim"}, "scheduler: has no effect here"),
    ({"cache": "taylorseer"}, "cache: has no effect here"), ({"cfg_gate": 0.5}, "cfg_gate: has no effect here"),
    ({"scheduler": "ddim", "eta": 1.0, "cache": "pab"}, "scheduler: has no effect here, nor have eta, cache:")])
def test_what_only_a_clip_of_the_model_knows_is_refused_where_none_is_made(model: Path, fields: dict[str, Any], said: str) -> None:
    given = {"given": ((4, "a" * 64 + ".png"),), "guidance": 3.0}
    with pytest.raises(InvalidRequest, match=said):
        planned(model, **given, **fields)
    assert {name: getattr(planned(model, guidance=3.0, **fields), name) for name in fields} == fields  # a clip is made
    usual = {"loras": (), "scheduler": read_spec(model, "tiny").scheduler, "eta": 0.0, "cache": "off", "cfg_gate": 1.0}
    assert planned(model, **given, **usual).request() == planned(model, **given).request()


def test_edits_are_of_key_frames(model: Path) -> None:
    with pytest.raises(InvalidRequest, match="frame 3, which is no key frame"):
        planned(model, edits=((3, 1),))


def test_memory_does_not_hold_the_clip(tmp_path: Path) -> None:
    store = FrameStore(tmp_path, {"a": 1}, [], (8, 8))
    pixels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    store.write(store.made(5), pixels)
    assert np.array_equal(store.read(store.made(5)), pixels)
    other = FrameStore(tmp_path, {"a": 2}, [], (8, 8))
    assert other.read(other.made(5)) is None and not store.folder.exists()
    shutil.rmtree(tmp_path)
