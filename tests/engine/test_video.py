"""Files appear whole or not at all, carry their recipe, and foreign ones are refused in words."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from engine.errors import InvalidRequest, OutputRejected, StorageBlocked
from engine.plan import Plan
from engine.request import GenerationRequest
from engine.video.health import FrameHealth
from engine.video.probe import probe
from engine.video.publish import publish, write_atomic
from engine.video.recipe import AI_SOURCE, MAX_RECIPE_BYTES, build_recipe, comment, read_recipe
from engine.video.writer import ClipWriter


def test_publish_once_and_never_over_another(tmp_path: Path) -> None:
    part, final = tmp_path / "a.part", tmp_path / "shelf" / "a.mp4"
    part.write_bytes(b"clip")
    assert publish(part, final) is True
    assert final.read_bytes() == b"clip"
    assert not part.exists()
    part.write_bytes(b"clip")
    assert publish(part, final) is False  # an earlier attempt got this far
    assert not part.exists()
    part.write_bytes(b"other")
    with pytest.raises(FileExistsError):
        publish(part, final)
    assert (final.read_bytes(), part.read_bytes()) == (b"clip", b"other")


def test_publish_after_a_crash_between_link_and_unlink(tmp_path: Path) -> None:
    part, final = tmp_path / "a.part", tmp_path / "a.mp4"
    part.write_bytes(b"clip")
    os.link(part, final)
    assert publish(part, final) is False
    assert final.read_bytes() == b"clip"
    assert not part.exists()


def test_publish_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_args: object) -> None:
        raise OSError(errno.EPERM, "not here")

    monkeypatch.setattr("engine.video.publish.os.link", refused)
    part, final = tmp_path / "a.part", tmp_path / "a.mp4"
    part.write_bytes(b"clip")
    assert publish(part, final) is True
    assert final.read_bytes() == b"clip"
    part.write_bytes(b"clip")
    assert publish(part, final) is False


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_write_that_fails_keeps_the_old_content(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "note.json"
    write_atomic(path, b"old")

    def fails(_handle: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr("engine.video.publish.os.fsync", fails)
        with pytest.raises(StorageBlocked, match="Nothing is lost"):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.glob("*.part")) == list(tmp_path.glob(".*.part")) == []
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


def clip(folder: Path, recipe: dict[str, Any], frames: int = 9, size: tuple[int, int] = (64, 32)) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (frames, size[1], size[0], 3), dtype=np.uint8)
    with ClipWriter(folder / "clip.part", width=size[0], height=size[1], fps=8, frames=frames, recipe=recipe) as writer:
        for chunk in np.array_split(pixels, 2 if frames > 1 else 1):
            writer.write(chunk)
        writer.finish()
    return folder / "clip.part"


def test_a_recipe_survives_the_file(tmp_path: Path, tiny_plan: Callable[..., Plan]) -> None:
    job = tiny_plan(prompt="<script>alert(1)</script> ü 🦊\nline two \"x\" = {y}; #1 \\", negative="a=b;c")
    job = replace(job, spec=replace(job.spec, name=str(job.spec.path)))
    recipe = build_recipe(job, clip_id="c" * 32, made_from="d" * 32)
    path = clip(tmp_path, recipe)
    assert read_recipe(path) == recipe
    assert recipe["digitalSourceType"] == AI_SOURCE
    assert recipe["request"]["model"] == "tiny-rope"  # the folder's name, not where it lies
    assert str(job.spec.path.parent) not in json.dumps(recipe)
    again = GenerationRequest.from_mapping(recipe["request"])
    assert (again.prompt, again.seed, again.frames) == (job.prompt, job.seed, job.frames)
    with av.open(str(path), format="mp4") as container:
        assert container.metadata["comment"] == comment(recipe)
    sidecar = tmp_path / "clip.json"
    sidecar.write_text(json.dumps(recipe))
    assert read_recipe(sidecar) == recipe


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.mp4", b"", "no mp4"), ("a.mp4", b"#EXTM3U\nfile:///etc/passwd\n", "no mp4"), ("a.mp4", b"\0" * 4096, "no mp4"),
    ("a.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n", "no mp4"),
    ("a.json", b"", "damaged recipe"), ("a.json", b"\xff\xfe", "not text"), ("a.json", b"[]", "no Sprocket recipe"),
    ("a.json", b'{"request": 3, "sprocket": 1}', "no Sprocket recipe"), ("a.json", b"[" * 100_000, "damaged recipe"),
    ("a.json", b'{"request": {}, "sprocket": 99}', "another version"), ("a.json", b" " * (MAX_RECIPE_BYTES + 1), "the limit is"),
])
def test_other_files_are_refused_in_words(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_recipe(path)
    assert caught.value.field == "file"


def test_a_missing_or_foreign_clip_is_refused(tmp_path: Path, tiny_plan: Callable[..., Plan]) -> None:
    for name in ("none.mp4", "none.json"):
        with pytest.raises(InvalidRequest):
            read_recipe(tmp_path / name)
    path = clip(tmp_path, build_recipe(tiny_plan()))
    foreign = tmp_path / "foreign.mp4"
    with av.open(str(path), format="mp4") as source, av.open(str(foreign), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    with pytest.raises(InvalidRequest, match="no Sprocket recipe"):
        read_recipe(foreign)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InvalidRequest):
        read_recipe(cut)
    with pytest.raises(OutputRejected):
        probe(cut)


def test_one_frame_is_a_clip_too(tmp_path: Path, tiny_plan: Callable[..., Plan]) -> None:
    assert probe(clip(tmp_path, build_recipe(tiny_plan()), frames=1)).frames == 1


def test_the_same_frames_make_the_same_file(tmp_path: Path, tiny_plan: Callable[..., Plan]) -> None:
    recipe = build_recipe(tiny_plan())
    assert len({clip(tmp_path, recipe).read_bytes() for _ in range(5)}) == 1


def check(frames: np.ndarray) -> None:
    health = FrameHealth()
    for chunk in np.array_split(frames, 3 if len(frames) >= 3 else 1):
        health.add(chunk)
    health.check()


def test_a_plain_scene_with_a_small_subject_is_healthy() -> None:
    scene = np.full((9, 128, 192, 3), 235, np.uint8)
    for index in range(9):
        scene[index, 60:70, 20 + index:30 + index] = (200, 60, 60)
    check(scene)
    dark = np.zeros((9, 128, 192, 3), np.uint8)
    dark[:, 5, 5] = 3
    dark[4:, 6, 5] = 3
    check(dark)
    check(scene[:1])


def test_what_is_no_video_is_rejected() -> None:
    still = np.random.default_rng(0).integers(0, 255, (1, 16, 16, 3), dtype=np.uint8)
    cases = [(np.zeros((9, 16, 16, 3), np.uint8), "black"), (np.full((9, 16, 16, 3), 255, np.uint8), "white"),
             (np.full((9, 16, 16, 3), (90, 120, 200), np.uint8), "one flat colour"), (still.repeat(9, axis=0), "exactly equal")]
    for frames, message in cases:
        with pytest.raises(OutputRejected, match=message):
            check(frames)
    with pytest.raises(OutputRejected, match="no frames"):
        FrameHealth().check()
