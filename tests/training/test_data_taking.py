"""Clips taken in, read by time, looked at, split: real files, made here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.errors import InvalidRequest
from tests.engine.media_files import counting, numbers, write_video
from training.data import edits, example
from training.data.buckets import Bucket, Rules, bucket_of, frames_at, pieces_of, place, table
from training.data.checks import twins_of
from training.data.frames import clip_frames
from training.data.records import Clip, Dataset, Looks, Rejection, read_json, unique, write_json
from training.data.sources import Found
from training.data.taking import Taken, split_at_cuts, take, take_all

RULES = Rules((25, 17, 9), ((128, 192), (192, 128)), 8.0)


def taken(path: Path, caption: str = "words", **more: object) -> Clip:
    answer = take(Found(path, caption, path.name, **more), path.parent)  # type: ignore[arg-type]
    assert isinstance(answer, Taken), answer
    assert answer.poster.startswith(b"RIFF")
    return answer.clip


def dataset(*clips: Clip, **more: object) -> Dataset:
    return Dataset(id="0" * 12, owner="local", name="set", source="here", layout="a folder", created_at=0.0, changed_at=0.0, clips=clips,
                   **more)  # type: ignore[arg-type]


def read(clip: Clip, path: Path, frames: int, fps: float, given: Dataset | None = None) -> list[int]:
    span = (given or dataset(clip)).span(clip)
    return numbers(clip_frames(clip, path, frames=frames, width=64, height=48, fps=fps, fit="crop", span=span))


def test_clips_are_read_by_time_not_by_number(tmp_path: Path) -> None:
    path = write_video(tmp_path / "c.mp4", counting(24), fps=24)
    clip = taken(path)
    assert (clip.frames, clip.fps, round(clip.seconds, 6)) == (24, 24.0, 1.0) and frames_at(clip.length, 8) == 8
    assert read(clip, path, 8, 8.0) == [0, 3, 6, 9, 12, 15, 18, 21]
    assert read(clip, path, 4, 8.0, dataset(clip, skip_start=6, skip_end=9)) == [6, 9, 12]  # 15 would be the first one skipped


def test_a_varying_rate_goes_by_its_clock(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mkv", counting(6), fps=30, times=[0.0, 0.1, 0.2, 1.0, 1.8, 1.9], format="matroska")
    clip = taken(path)
    assert clip.variable
    assert read(clip, path, 8, 4.0) == [0, 2, 2, 3, 3, 3, 4, 4]  # at 0, .25, .5, .75, 1 ... seconds: each the nearest in time


def test_a_folder_of_pictures_is_a_clip(tmp_path: Path) -> None:
    (tmp_path / "shot").mkdir()
    for number, picture in enumerate(counting(12)):
        Image.fromarray(picture).save(tmp_path / "shot" / f"f{number}.png")
    clip = taken(tmp_path / "shot", kind="frames", fps=12.0)
    assert (clip.kind, clip.width, clip.height, clip.seconds) == ("frames", 64, 48, 1.0)
    assert read(clip, tmp_path / "shot", 9, 6.0) == [0, 2, 4, 6, 8, 10]
    Image.new("RGB", (32, 32)).save(tmp_path / "shot" / "f99.png")
    refused = take(Found(tmp_path / "shot", "", "shot", "frames", 12.0), tmp_path)
    assert isinstance(refused, Rejection) and "different sizes (32 x 32 and 64 x 48)" in refused.reason


def test_what_cannot_be_a_clip_is_told_and_the_rest_is_taken(tmp_path: Path) -> None:
    good = write_video(tmp_path / "good.mp4", counting(12), fps=12)
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[:900])
    (tmp_path / "text.mp4").write_text("hello")
    write_video(tmp_path / "one.mp4", counting(1))
    noise = [np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8) for number in range(24)]
    hurt = bytearray(write_video(tmp_path / "hurt.mp4", noise).read_bytes())
    hurt[len(hurt) // 3:2 * len(hurt) // 3] = bytes(2 * len(hurt) // 3 - len(hurt) // 3)
    (tmp_path / "hurt.mp4").write_bytes(hurt)
    (tmp_path / "outside").mkdir()
    found = [Found(tmp_path / name, "", name) for name in ("cut.mp4", "good.mp4", "gone.mp4", "text.mp4", "one.mp4", "hurt.mp4")]
    clips, rejections = take_all([*found, Found(good, "x" * 5000, "long")], tmp_path)
    assert [each.clip.origin for each in clips] == ["good.mp4"] and clips[0].clip.source == "good.mp4"
    reasons = {each.origin: each.reason for each in rejections}
    assert list(reasons) == ["cut.mp4", "gone.mp4", "text.mp4", "one.mp4", "hurt.mp4", "long"]
    for name, says in {"cut.mp4": "cut off", "gone.mp4": "no such file", "text.mp4": "a text, not a video", "one.mp4": "a single picture",
                       "hurt.mp4": "cannot be decoded", "long": "5,000 characters"}.items():
        assert says in reasons[name]
    outside = take(Found(good, "", "good"), tmp_path, inside=tmp_path / "outside")
    assert isinstance(outside, Rejection) and "outside the set" in outside.reason
    for name in ("a\0.mp4", "y" * 300 + ".mp4"):
        odd = take(Found(tmp_path / name, "", "odd"), tmp_path, inside=tmp_path)
        assert isinstance(odd, Rejection), name


def test_scenes_are_found_and_split_without_mixing(tmp_path: Path) -> None:
    pictures = [example.render(0, index)[:20] for index in (2, 5, 4)]
    example.write_mp4(tmp_path / "s.mp4", np.concatenate(pictures), 16)
    clip = taken(tmp_path / "s.mp4", "three scenes")
    assert clip.looks is not None and clip.looks.cuts == (1.2188, 2.4688)
    scenes, short = split_at_cuts(clip, tmp_path, 1.0)
    assert [scene.origin for scene, _ in scenes] == ["s.mp4, scene 1", "s.mp4, scene 2", "s.mp4, scene 3"] and not short
    for (scene, _), rendered in zip(scenes, pictures, strict=True):
        shown = clip_frames(scene, tmp_path / "s.mp4", frames=99, width=192, height=128, fps=16.0, fit="crop", span=scene.span)
        assert len(shown) == 20 and np.abs(shown.astype(int) - rendered).mean() < 2
    assert len(split_at_cuts(clip, tmp_path, 1.25)[1]) == 2  # the first is half a picture shorter than 20/16 s, the last as much
    meanwhile = edits.with_use(edits.with_caption(dataset(clip), clip.id, "words typed meanwhile"), [clip.id], False)
    later = edits.with_scenes(meanwhile, clip.id, [scene for scene, _ in scenes], short).clips
    assert {(each.caption, each.said_by, each.used) for each in later} == {("words typed meanwhile", "hand", False)}
    after = edits.with_scenes(dataset(clip), clip.id, [scene for scene, _ in scenes], short)
    assert len(after.clips) == 3 and len(set(after.splits().values())) == 1  # all of one file on one side
    with pytest.raises(InvalidRequest, match="one scene only"):
        split_at_cuts(scenes[0][0], tmp_path, 1.0)


def test_stillness_and_twins(tmp_path: Path) -> None:
    moving = example.render(0, 6)
    example.write_mp4(tmp_path / "moving.mp4", moving, 16)
    write_video(tmp_path / "again.mkv", moving[::2], fps=8, format="matroska")
    example.write_mp4(tmp_path / "still.mp4", np.repeat(moving[:1], 20, 0), 16)
    example.write_mp4(tmp_path / "other.mp4", example.render(0, 12), 16)
    clips = [taken(tmp_path / name) for name in ("moving.mp4", "again.mkv", "still.mp4", "other.mp4")]
    assert [clip.looks.still for clip in clips if clip.looks] == [0.0, 0.0, 1.0, 0.0]
    assert {key: twin.origin for key, twin in twins_of(tuple(clips)).items()} == {clips[1].id: "moving.mp4"}
    assert unique([clips[0], clips[0]])[1][0].reason.startswith("is the same file as moving.mp4")


def test_twins_are_those_that_comparing_every_two_finds() -> None:
    """In up to 6 bits of 64 and 10 levels of 255 of each picture; of several the first counts."""
    def looks(bits: int, level: int, picture: int = 2) -> Looks:
        number = 0x0123456789abcdef ^ ((1 << bits) - 1) << 20
        return Looks(tuple(f"{number if each == picture else 5:016x}" for each in range(3)),
                     tuple((bytes([9] * 47) + bytes([level if each == picture else 9])).hex() for each in range(3)), 0.0, 5.0, ())

    clips = tuple(fake(number, looks=each) for number, each in enumerate(
        (looks(0, 100), None, looks(6, 100), looks(7, 100), looks(0, 110), looks(0, 111), looks(0, 90), looks(0, 100, 0), looks(40, 100))))
    assert {int(each, 16): int(twin.id, 16) for each, twin in twins_of(clips).items()} == {2: 0, 3: 2, 4: 0, 5: 4, 6: 0}
    assert twins_of(()) == twins_of((fake(1, looks=None), fake(2))) == {}


def fake(number: int, seconds: float = 4.0, **more: object) -> Clip:
    values: dict[str, object] = {"id": f"{number:016x}", "source": f"/v/{number}.mp4", "sha256": f"{number:064x}", "origin": f"{number}",
                                 "caption": f"clip {number}", "width": 192, "height": 128, "frames": 96, "fps": 24.0, "seconds": seconds}
    return Clip(**values | more)  # type: ignore[arg-type]


def test_buckets_say_where_everything_lands() -> None:
    clips = (fake(1, 10.0), fake(2, 2.5), fake(3, 1.0), fake(4, 4.0, width=90, height=160), fake(5, 4.0, used=False))
    placed, left = place(dataset(*clips, long="first"), RULES)
    assert [(each.clip.origin, each.bucket) for each in placed] == [("1", Bucket(25, 128, 192)), ("2", Bucket(17, 128, 192)),
                                                                    ("4", Bucket(25, 192, 128))]
    assert [each.clip.origin for each in left] == ["3"] and "8 frames at 8 a second; the shortest bucket has 9" in left[0].reason
    rows = table(placed, {clips[0].id: "held-out"}, 8.0)
    assert [(row.bucket.frames, row.train, row.held_out, row.cut) for row in rows] == [(17, 1, 0, 1), (25, 0, 1, 1), (25, 1, 0, 1)]
    assert bucket_of(8, 192, 128, RULES) is None and place(dataset(fake(1), skip_start=90), RULES)[1][0].reason.endswith("or skip less.")


def test_a_long_clip_is_cut_into_pieces_from_its_first_frame_to_its_last() -> None:
    assert [pieces_of(frames, 49) for frames in (49, 60, 73, 74, 97, 98, 147)] == [(0,), (0,), (0,), (0, 25), (0, 48), (0, 49), (0, 49, 98)]
    clips = (fake(1, 10.0), fake(2, 2.5), fake(3, 4.0))
    placed, _ = place(dataset(*clips), RULES)
    assert [(each.clip.origin, each.start, each.frames, each.bucket.frames) for each in placed] == [
        ("1", 0, 80, 25), ("1", 28, 52, 25), ("1", 55, 25, 25), ("2", 0, 20, 17), ("3", 0, 32, 25)]
    rows = table(placed, {clips[0].id: "held-out"}, 8.0)
    assert [(row.bucket.frames, row.train, row.held_out, row.clips, row.cut) for row in rows] == [(25, 1, 3, 2, 1), (17, 1, 0, 1, 1)]
    with pytest.raises(InvalidRequest, match="cut into 'pieces'"):
        edits.with_reading(dataset(*clips), long="loop")


def test_the_split_is_a_function_of_hashes() -> None:
    clips = tuple(fake(number) for number in range(20))
    first = dataset(*clips, held_out=0.2).splits()
    assert list(first.values()).count("held-out") == 4
    assert dataset(*reversed(clips), held_out=0.2).splits() == first
    assert dataset(*clips, held_out=0.2, seed=1).splits() != first
    assert set(dataset(*clips, held_out=0.0).splits().values()) == {"train"}
    assert set(dataset(fake(1)).splits().values()) == {"train"} and dataset().splits() == {}


def test_edits_are_pure_and_a_manifest_is_what_was_written(tmp_path: Path) -> None:
    before = dataset(fake(1), fake(2, looks=None), rejections=(Rejection("x", "why"),), notes=("n",))
    after, many = edits.replaced(before, "clip", "film")
    assert many == 2 and [clip.caption for clip in after.clips] == ["film 1", "film 2"] and before.clips[0].caption == "clip 1"
    for find, by, said in (("clip ", "blue ", "blue 1"), ("clip ", " blue\n ", "blue 1"), ("lip", "", "c 1"),
                           (" ", "\u200d \ud800", "clip 1"), (" 1", " 2 ", "clip 2")):
        assert edits.replaced(before, find, by)[0].clips[0].caption == said
    after = edits.with_prefix(edits.with_caption(after, fake(1).id, " by\nhand "), "zq")
    assert after.text(after.clips[0]) == "zq by hand" and after.clips[0].said_by == "hand"
    (tmp_path / "m.json").write_bytes(write_json(after))
    assert read_json(tmp_path / "m.json") == after
    for edit, field in ((lambda: edits.with_split(before, 0.7), "held_out"), (lambda: edits.with_reading(before, "stretch"), "fit"),
                        (lambda: edits.with_caption(before, "nope", ""), "clip"), (lambda: edits.replaced(before, "", "x"), "find"),
                        (lambda: edits.with_prefix(before, "x" * 61), "prefix")):
        with pytest.raises(InvalidRequest) as error:
            edit()
        assert error.value.field == field
    assert replace(before, name="x") != before
