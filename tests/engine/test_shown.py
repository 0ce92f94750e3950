"""Models that are shown first and last frame, or any frames with a mask: recognised, planned and run, on tiny weights of those layouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.checkpoint import fingerprint
from engine.digest import file_sha256
from engine.errors import Cancelled, InvalidRequest, ModelInvalid
from engine.events import ClipWritten
from engine.interpolate.community import masked_video, shown_parts
from engine.media.clip import read_frames
from engine.models.cache import ModelCache
from engine.models.cogvideox import CogVideoX
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from engine.run import run
from engine.spec import read_spec
from tests.engine.tiny import CPU, save_tiny
from tests.tiny_family import save_ends, save_masked

RECIPE = {"app_version": "0", "sprocket": 1, "request": {"model": "tiny", "seed": 4}}
NAMES = [f"{digit * 64}.png" for digit in "0123"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("family")
    return {"ends": save_ends(home / "ends"), "masked": save_masked(home / "masked"),
            "noisy": save_masked(home / "noisy", noisy=True), "1.5": save_masked(home / "1.5", kind="1.5")}


@pytest.fixture(scope="module")
def models() -> Any:
    cache = ModelCache()
    yield cache
    cache.close()


def pictures(folder: Path, count: int) -> list[str]:
    folder.mkdir(exist_ok=True)
    names = []
    for number in range(count):
        path = folder / "x.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (64, 96, 3), np.uint8)).save(path)
        names.append(f"{file_sha256(path)}.png")
        path.rename(folder / names[-1])
    return names


def planned(folder: Path, **fields: Any) -> Plan:
    return plan(GenerationRequest(prompt="a fox", seed=4, steps=2, **fields), read_spec(folder), CPU)


def made(job: Plan, folder: Path, models: ModelCache, inputs: Path, **options: Any) -> np.ndarray:
    *_, last = run(job, part=folder / "clip.part.mp4", workspace=folder / "work", recipe=RECIPE, models=models, inputs=inputs,
                   cancelled=options.pop("cancelled", lambda: False), **options)
    assert isinstance(last, ClipWritten) and last.frames == job.frames
    return read_frames(last.part, frames=job.frames, width=96, height=64, fit="crop")


def test_they_are_recognised_by_class_channels_note_or_name(folders: dict[str, Path], tmp_path: Path) -> None:
    spec = read_spec(folders["ends"])
    assert (spec.shown, spec.modes, spec.noisy_frames) == ("ends", ("i2v",), False)
    for name, noisy in (("masked", False), ("noisy", True)):
        spec = read_spec(folders[name])
        assert (spec.shown, spec.modes, spec.noisy_frames) == ("masked", ("t2v", "i2v"), noisy)
    assert read_spec(save_masked(tmp_path / "b", class_name="CogVideoXPipeline")).shown == "masked"
    plain = save_ends(tmp_path / "c", as_published=False)
    assert read_spec(plain).shown == "ends"
    (plain / "sprocket.json").unlink()
    assert read_spec(plain).shown == "" and read_spec(plain, "feizhengcong/CogvideoX-Interpolation").shown == "ends"
    assert read_spec(save_tiny(tmp_path / "d")).shown == ""


@pytest.mark.parametrize(("note", "said"), [('{"shown": "all"}', "shown 'all' is not one of ends, masked"),
                                            ('{"shown": "masked"}', r"takes 4 channels.*takes 9"),
                                            ('{"shown": "ends"}', r"takes 4.*takes 8")])
def test_a_note_that_the_weights_deny_is_refused(tmp_path: Path, note: str, said: str) -> None:
    folder = save_tiny(tmp_path / "tiny")
    (folder / "sprocket.json").write_text(note)
    with pytest.raises(ModelInvalid, match=said):
        read_spec(folder)


def test_the_clip_follows_the_frames_it_is_shown(folders: dict[str, Path], models: ModelCache, tmp_path: Path) -> None:
    one, two = pictures(tmp_path / "in", 2)

    def clip(name: str, **fields: Any) -> np.ndarray:
        home = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        return made(planned(folders[name], frames=9, **fields), home, models, tmp_path / "in")

    ends = clip("ends", given=((0, one), (8, two)))
    assert not np.array_equal(ends, clip("ends", given=((0, one), (8, one))))
    assert np.array_equal(ends, clip("ends", image=one, given=((8, two),)))  # an image is the first frame
    assert not np.array_equal(clip("masked"), clip("masked", given=((3, one),)))  # a mask takes any, or none
    assert clip("1.5", given=((0, one), (8, two))).any()


def test_a_plan_and_a_stopped_run_come_out_the_same(folders: dict[str, Path], models: ModelCache, tmp_path: Path) -> None:
    one, two = pictures(tmp_path / "in", 2)
    job = planned(folders["masked"], frames=9, given=((0, one), (8, two)))
    assert plan(job.request(), job.spec, CPU) == job and "9 frames at once, around 2 frames" in job.notes[0]
    whole = made(job, tmp_path / "whole", models, tmp_path / "in")
    asked = iter([False] * 5)
    with pytest.raises(Cancelled):
        made(job, tmp_path / "cut", models, tmp_path / "in", cancelled=lambda: next(asked, True))
    assert np.array_equal(made(job, tmp_path / "cut", models, tmp_path / "in"), whole)
    other = replace(job, given=((0, one), (8, one)))
    assert fingerprint(other) != fingerprint(job)  # so its checkpoint is not taken


@torch.no_grad()
def test_what_stands_beside_the_noise_is_the_published_layout(folders: dict[str, Path]) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (2, 64, 96, 3), np.uint8)
    spec = read_spec(folders["masked"])
    model = CogVideoX(spec, dtype="fp32", device="cpu")
    (video,) = shown_parts(spec, frames, (0, 8), 9, 0)
    assert not video[1:5].any() and all(np.array_equal(video[index], frames[1]) for index in (5, 6, 7, 8))
    moments = [part for _, part in model.encode_frames(video, (64, 96))]
    beside = model.shown_beside([moments], (0, 8), 9, (1, 3, 4, 8, 12), torch.Generator())
    images = {index: torch.from_numpy(frames[number]).permute(2, 0, 1) / 127.5 - 1 for number, index in enumerate((0, 8))}
    wanted = masked_video(images, 9, lambda pixels: model.vae.encode(pixels).latent_dist.mode(), spec.scaling_factor)
    assert torch.allclose(beside, wanted, atol=1e-5) and beside[0, :, 0, 0, 0].tolist() == pytest.approx([spec.scaling_factor, 0,
                                                                                                        spec.scaling_factor])
    assert not model.shown_beside([], (), 9, (1, 3, 4, 8, 12), torch.Generator()).any()
    model.close()


def test_noise_is_on_what_is_known_and_the_seed_s(folders: dict[str, Path]) -> None:
    frames, spec = np.full((1, 64, 96, 3), 120, np.uint8), read_spec(folders["noisy"])
    (video,), (again,), (other,) = (shown_parts(spec, frames, (0,), 9, seed) for seed in (1, 1, 2))
    assert np.array_equal(video, again) and not np.array_equal(video, other) and not video[1:].any()
    assert video[0].std() == pytest.approx(0.0563 * 127.5, rel=0.1)


@pytest.mark.parametrize(("model", "fields", "said"), [
    ("ends", {"given": ((0, NAMES[0]),)}, r"given: names the frames 0; ends is shown the first frame and the last, 0 and 8"),
    ("ends", {"given": ((0, NAMES[0]), (4, NAMES[1]), (8, NAMES[2]))}, "given: names the frames 0, 4, 8"),
    ("ends", {"image": NAMES[0]}, "given: names the frames 0;"),
    ("ends", {}, "given: names no frames"),
    ("ends", {"video": f"{'0' * 64}.mp4"}, "video: is given"),
    ("masked", {"given": ((9, NAMES[0]),)}, "given: names frame 9; the clip has 9"),
    ("masked", {"given": ((0, NAMES[0]),), "fps": 16.0}, "key_frames: or a frame rate is asked for, and masked has no stage-two"),
    ("masked", {"given": ((0, NAMES[0]),), "key_frames": 3}, "no stage-two"),
])
def test_what_they_cannot_be_shown(folders: dict[str, Path], model: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        planned(folders[model], frames=9, **fields)
