"""What is encoded is what Create would encode, once; what is damaged is noticed and done again; an edit does one thing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.errors import Cancelled, InvalidRequest
from engine.models.cogvideox import CogVideoX
from engine.spec import ModelSpec, read_spec
from tests.engine.media_files import counting, numbers, write_video
from tests.engine.tiny import save_tiny
from training.data import edits
from training.data.alone import FramesAlone
from training.data.buckets import Bucket, Rules, place, rules_of
from training.data.cache import Encoding, build, latents_file, mend, open_set, text_file
from training.data.checks import check
from training.data.encode import Encoders, LoadedEncoders
from training.data.frames import clip_frames
from training.data.records import Dataset
from training.data.sources import Found
from training.data.store import Damaged, read_tensors, sound, write_tensors
from training.data.taking import Taken, take


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    torch.set_num_threads(1)
    return read_spec(save_tiny(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def rules(spec: ModelSpec) -> Rules:
    return rules_of(spec)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    """Three clips of a second and a half, one that is too short."""
    folder, clips = tmp_path_factory.mktemp("clips"), []
    for number in range(4):
        pictures = [np.full((64, 96, 3), 5 * step + 20 * number, np.uint8) for step in range(36 if number < 3 else 6)]
        write_video(folder / f"{number}.mp4", pictures, fps=24)
        answer = take(Found(folder / f"{number}.mp4", f"clip {'abcd'[number]}", f"{number}.mp4"), folder)
        assert isinstance(answer, Taken)
        clips.append(answer.clip)
    return folder, Dataset(id="0" * 12, owner="local", name="four", source="", layout="", created_at=0.0, changed_at=0.0,
                           clips=tuple(clips), held_out=0.3)


@pytest.fixture
def four(taken: tuple[Path, Dataset], tmp_path: Path) -> Dataset:
    """In a folder of this test."""
    for path in taken[0].iterdir():
        shutil.copy(path, tmp_path)
    return taken[1]


def test_it_is_what_create_encodes(four: Dataset, tmp_path: Path, spec: ModelSpec, rules: Rules) -> None:
    built = build(four, tmp_path, spec, rules)
    cached = built.cached
    assert (built.texts, built.clips, built.repaired) == (4, 3, ())
    assert (len(cached.train), len(cached.held_out)) == (2, 1) and [entry.bucket for entry in cached.entries] == [Bucket(9, 64, 96)] * 3
    assert [origin for origin, _ in cached.left] == ["3.mp4"] and "the shortest bucket has 9" in cached.left[0][1]
    model = CogVideoX(spec, dtype="fp32", device="cpu")
    entry, clip = cached.entries[1], four.clips[1]
    frames = clip_frames(clip, tmp_path / "1.mp4", frames=9, width=96, height=64, fps=spec.fps, fit="crop", span=four.span(clip))
    moments = torch.cat([part for _, part in model.encode_frames(frames, (64, 96))], dim=2)[0]
    first = torch.cat([part for _, part in model.encode_frames(frames[:1], (64, 96))], dim=2)[0]
    for (mean, std), whole in ((entry.latents(), moments), (entry.first_frame(), first)):
        assert mean.dtype == torch.float32 and torch.equal(mean, whole[:4]) and torch.equal(std, torch.exp(0.5 * whole[4:].clamp(-30, 20)))
    assert entry.latents()[0].shape == (4, 3, 8, 12) and entry.first_frame()[0].shape == (4, 1, 8, 12)
    assert torch.equal(entry.text(), model.encode("clip b", None)[0])
    assert torch.equal(cached.empty_text(), model.encode("x", "")[0])
    shutil.copytree(tmp_path, tmp_path / "again", ignore=shutil.ignore_patterns("cache", "again"))
    by_model = build(four, tmp_path / "again", spec, rules, encoders=LoadedEncoders(model)).cached
    assert by_model.digest == cached.digest
    for one, other in zip(by_model.entries, cached.entries, strict=True):
        assert latents_file(one.folder, one.latents_key).read_bytes() == latents_file(other.folder, other.latents_key).read_bytes()
    model.close()
    assert open_set(tmp_path, cached.digest) == cached and cached.damaged() == ()


def test_an_edited_caption_encodes_one_text(four: Dataset, tmp_path: Path, spec: ModelSpec, rules: Rules) -> None:
    first = build(four, tmp_path, spec, rules)
    edited = edits.with_caption(four, four.clips[0].id, "clip z")
    second = build(edited, tmp_path, spec, rules)
    assert (second.texts, second.clips) == (1, 0) and second.cached.digest != first.cached.digest
    changed = [a.key != b.key for a, b in zip(first.cached.entries, second.cached.entries, strict=True)]
    assert changed == [True, False, False]
    kept = open_set(tmp_path, first.cached.digest)  # a run goes on with its own
    assert torch.equal(first.cached.entries[0].text(), kept.entries[0].text())
    again = build(four, tmp_path, spec, rules)
    assert (again.texts, again.clips, again.cached) == (0, 0, first.cached)
    assert build(edits.with_reading(four, fit="pad"), tmp_path, spec, rules).clips == 3
    assert build(edits.with_prefix(four, "zq"), tmp_path, spec, rules).cached.entries[0].caption == "zq clip a"


def test_a_caption_too_long_leaves_its_clip_out_and_trains_the_others(four: Dataset, tmp_path: Path, spec: ModelSpec,
                                                                      rules: Rules) -> None:
    long = edits.with_caption(four, four.clips[1].id, "clip b seen by nobody but the encoder")
    alone = FramesAlone(Encoders(spec, dtype="fp32", device="cpu"), (8.0,))
    fits = edits.with_caption(four, four.clips[0].id, "abcdefghijkl")  # and does not behind "8 fps. "
    blind = replace(spec, path=shutil.copytree(spec.path, tmp_path / "blind"))
    (blind.path / "tokenizer" / "tokenizer.json").unlink()  # as in older checkpoints: nothing counts before the encoder does
    assert not check(long, blind, rules).stopped(four.clips[1].id)
    cases: list[tuple[Dataset, ModelSpec, Encoding, str, str]] = [
        (long, blind, Encoders(spec, dtype="fp32", device="cpu"), "", "1.mp4"), (fits, spec, alone, alone.way, "0.mp4")]
    for dataset, model, encoders, way, gone in cases:
        built = build(dataset, tmp_path, model, rules, encoders=encoders, way=way)
        reason = dict(built.cached.left)[gone]
        assert reason.startswith("its caption has ") and "tokens" in reason and len(built.cached.entries) == 2


def test_a_flipped_byte_is_encoded_again_and_said(four: Dataset, tmp_path: Path, spec: ModelSpec, rules: Rules) -> None:
    before = build(four, tmp_path, spec, rules).cached
    paths = [latents_file(before.folder, before.entries[2].latents_key), text_file(before.folder, before.entries[0].text_key)]
    whole = [path.read_bytes() for path in paths]
    for path, at in zip(paths, (-7, 20), strict=True):
        data = bytearray(path.read_bytes())
        data[at] ^= 16
        path.write_bytes(data)
    assert set(before.damaged()) == {path.name for path in paths}
    with pytest.raises(Damaged, match="Encode the set again"):
        before.entries[2].latents()
    built = build(four, tmp_path, spec, rules)
    assert (built.texts, built.clips) == (1, 1) and built.cached == before and [path.read_bytes() for path in paths] == whole
    assert built.repaired == ("the encoding of 'clip a' was damaged on the disk and is encoded again.",
                              "the latents of 2.mp4 was damaged on the disk and is encoded again.")
    paths[0].unlink()
    assert before.damaged() == (paths[0].name,) and build(four, tmp_path, spec, rules).clips == 1
    listed = before.folder / "sets" / f"{before.digest}.json"
    listed.write_text(listed.read_text().replace("held-out", "train"))
    with pytest.raises(Damaged, match="checksum"):
        open_set(tmp_path, before.digest)


def test_a_set_is_mended_as_it_was_whatever_was_edited_since(four: Dataset, tmp_path: Path, spec: ModelSpec, rules: Rules) -> None:
    before = build(four, tmp_path, spec, rules).cached
    paths = [latents_file(before.folder, before.entries[2].latents_key), text_file(before.folder, before.entries[0].text_key),
             text_file(before.folder, before.empty_key)]
    whole = [path.read_bytes() for path in paths]
    edited = edits.with_caption(four, four.clips[0].id, "clip z")
    assert mend(before, edited, spec, rules) == ()
    paths[0].write_bytes(whole[0][:-1] + bytes([whole[0][-1] ^ 1]))
    paths[1].write_bytes(whole[1][:100])
    paths[2].unlink()
    said = mend(before, edited, spec, rules)
    assert len(said) == 3 and "'clip a'" in said[1] and "2.mp4" in said[2] and [path.read_bytes() for path in paths] == whole
    paths[0].unlink()
    for now, says in ((edits.with_reading(four, fit="pad"), "does not give them again"),
                      (replace(four, clips=four.clips[:2]), "no longer there")):
        with pytest.raises(Damaged, match=says):
            mend(before, now, spec, rules)
    (tmp_path / "2.mp4").unlink()
    with pytest.raises(Damaged, match=r"latents of 2\.mp4 .* is not where it was .* begin a new one"):
        mend(before, four, spec, rules)


def test_a_set_that_was_deleted_under_a_run_is_named(four: Dataset, tmp_path: Path, spec: ModelSpec, rules: Rules) -> None:
    shutil.copytree(tmp_path, tmp_path / four.id, ignore=shutil.ignore_patterns(four.id))
    entry = build(four, tmp_path / four.id, spec, rules).cached
    shutil.rmtree(tmp_path / four.id)
    for read in (entry.entries[0].latents, entry.entries[0].first_frame, entry.entries[0].picture, entry.entries[0].text, entry.empty_text):
        with pytest.raises(Damaged, match=f"the dataset {four.id} cannot be read .* begin a new run"):
            read()


def test_every_single_flip_in_a_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}
    write_tensors(path, tensors)
    assert sound(path) and all(torch.equal(read_tensors(path)[name], tensors[name]) for name in tensors)
    data = path.read_bytes()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        path.write_bytes(changed)
        try:
            read = read_tensors(path)
        except Damaged:
            continue
        assert all(torch.equal(read[name], tensors[name]) for name in tensors), at  # only white space may differ
    assert sound(tmp_path / "none") is None


def test_changed_files_are_not_trained_on(four: Dataset, tmp_path: Path, spec: ModelSpec, rules: Rules) -> None:
    write_video(tmp_path / "0.mp4", counting(24, 96, 64), fps=24)
    (tmp_path / "1.mp4").unlink()
    left = dict(build(replace(four, held_out=0.0), tmp_path, spec, rules).cached.left)
    assert "was changed after it was taken in" in left["0.mp4"] and "is not where it was" in left["1.mp4"]


def test_pieces_of_a_long_clip_hold_what_is_shown_there(tmp_path: Path, spec: ModelSpec, rules: Rules) -> None:
    pictures = [np.full((64, 96, 3), 7 * step, np.uint8) for step in range(26)]
    write_video(tmp_path / "long.mp4", pictures, fps=8)
    answer = take(Found(tmp_path / "long.mp4", "a ramp", "long.mp4"), tmp_path)
    assert isinstance(answer, Taken)
    one = Dataset(id="0" * 12, owner="local", name="one", source="", layout="", created_at=0.0, changed_at=0.0, clips=(answer.clip,),
                  held_out=0)
    cached = build(one, tmp_path, spec, rules).cached
    assert [entry.bucket.frames for entry in cached.entries] == [9] * 3 and len({entry.key for entry in cached.entries}) == 3
    whole = clip_frames(answer.clip, tmp_path / "long.mp4", frames=26, width=96, height=64, fps=spec.fps, fit="crop", span=(0.0, None))
    model = CogVideoX(spec, dtype="fp32", device="cpu")
    for entry, start in zip(cached.entries, (0, 8, 17), strict=True):
        moments = torch.cat([part for _, part in model.encode_frames(whole[start:start + 9], (64, 96))], dim=2)[0]
        assert torch.equal(entry.latents()[0], moments[:4])
    model.close()
    first = build(replace(one, long="first"), tmp_path, spec, rules)
    assert [entry.key for entry in first.cached.entries] == [cached.entries[0].key] and first.clips == 0


class Noted:
    """Encoders that keep what they were shown."""

    def __init__(self) -> None:
        self.shown: list[np.ndarray] = []

    def text(self, words: str) -> torch.Tensor:
        return torch.zeros(1)

    def moments(self, frames: np.ndarray) -> torch.Tensor:
        self.shown.append(frames)
        return torch.zeros(8, 1, 1, 1)


@pytest.mark.parametrize(("rate", "fps", "length", "counts"), [
    (12, 8.0, 25, (56, 71)), (12, 16.0, 25, (28, 33)), (15, 8.0, 25, (70, 83)), (15, 16.0, 25, (35, 49)),
    (Fraction(24000, 1001), 8.0, 25, (113, 150)), (Fraction(24000, 1001), 16.0, 25, (56, 71)), (24, 8.0, 25, (113, 150)),
    (24, 16.0, 25, (56, 71)), (24, 16.0, 81, (182,)), (25, 8.0, 25, (129, 154)), (25, 16.0, 25, (77, 102)), (30, 8.0, 25, (141, 188)),
    (30, 16.0, 25, (70, 83)),
])
def test_every_piece_has_the_frames_that_were_planned(tmp_path: Path, spec: ModelSpec, rate: Fraction, fps: float, length: int,
                                                      counts: tuple[int, ...]) -> None:
    longest = Rules((length, 17, 9), ((64, 96),), fps)
    for count in counts:
        folder = tmp_path / f"{count}"
        folder.mkdir()
        pictures = [np.full((64, 96, 3), 250 * number // count, np.uint8) for number in range(count)]
        write_video(folder / "long.mp4", pictures, fps=rate)
        answer = take(Found(folder / "long.mp4", "a ramp", "long.mp4"), folder)
        assert isinstance(answer, Taken)
        one = Dataset(id="0" * 12, owner="local", name="one", source="", layout="", created_at=0.0, changed_at=0.0, clips=(answer.clip,),
                      held_out=0)
        planned, noted = place(one, longest)[0], Noted()
        cached = build(one, folder, spec, longest, encoders=noted).cached
        assert len(planned) > 1 and [entry.bucket.frames for entry in cached.entries] == [length] * len(planned)
        whole = clip_frames(answer.clip, folder / "long.mp4", frames=999, width=96, height=64, fps=fps, fit="crop", span=(0.0, None))
        for each, frames in zip(planned, noted.shown[::2], strict=True):
            assert np.array_equal(frames, whole[each.start:each.start + length]), (count, each.start)  # what is shown there, by time


def test_the_last_piece_of_a_clip_that_says_too_much_begins_a_frame_earlier(tmp_path: Path, spec: ModelSpec) -> None:
    rules = Rules((25, 17, 9), ((64, 96),), 8.0)
    write_video(tmp_path / "long.mp4", counting(25, 96, 64) * 2, fps=8)
    answer = take(Found(tmp_path / "long.mp4", "a ramp", "long.mp4"), tmp_path)
    assert isinstance(answer, Taken)
    promised = replace(answer.clip, seconds=answer.clip.seconds + 1 / 8)  # 51 frames, and there are 50
    one = Dataset(id="0" * 12, owner="local", name="one", source="", layout="", created_at=0.0, changed_at=0.0, clips=(promised,),
                  held_out=0)
    noted = Noted()
    cached = build(one, tmp_path, spec, rules, encoders=noted).cached
    assert [each.start for each in place(one, rules)[0]] == [0, 26] and [entry.bucket.frames for entry in cached.entries] == [25, 25]
    assert numbers(noted.shown[2]) == list(range(25))  # from 25 to 49, the last there is
    assert build(one, tmp_path, spec, rules, encoders=noted).clips == 0  # it is remembered
    latents_file(cached.folder, cached.entries[1].latents_key).unlink()
    assert len(mend(cached, one, spec, rules, encoders=noted)) == 1 and cached.damaged() == ()


def test_nothing_to_train_on_and_a_wish_to_stop(four: Dataset, tmp_path: Path, spec: ModelSpec, rules: Rules) -> None:
    for clips in ((), four.clips[3:], tuple(replace(clip, caption="") for clip in four.clips)):
        with pytest.raises(InvalidRequest) as error:
            build(replace(four, clips=clips), tmp_path, spec, rules)
        assert error.value.field == "dataset"
    with pytest.raises(Cancelled):
        build(four, tmp_path, spec, rules, stopped=lambda: True)


def test_what_is_wrong_is_found(four: Dataset, spec: ModelSpec, rules: Rules) -> None:
    long = edits.with_caption(replace(four, held_out=0.0), four.clips[0].id, "twenty letters and more")
    report = check(long, spec, rules)
    kinds = {clip.origin: [each.kind for each in report.problems.get(clip.id, ())] for clip in four.clips}
    assert "tokens" in kinds["0.mp4"] and "short" in kinds["3.mp4"] and report.tokens[four.clips[1].id] == 8
    assert "reads 16. Shorten it by" in report.problems[four.clips[0].id][0].text
    assert report.messages[0] == ("warn", "2 clips: they are likely learned by heart. 25 or more teach a concept.")
    one = check(replace(four, clips=four.clips[:1]), spec, rules)
    assert one.messages[0][0] == "bad" and one.messages[0][1].startswith("One clip only") and len(one.messages) == 1
    assert check(replace(four, clips=()), spec, rules).messages[0][1].startswith("The set is empty")


def test_a_clip_with_fewer_frames_than_it_promised_goes_to_a_shorter_bucket(four: Dataset, tmp_path: Path, spec: ModelSpec) -> None:
    rules = Rules((17, 9), ((64, 96),), spec.fps)
    promised = replace(four.clips[0], seconds=2.2)
    built = build(replace(four, clips=(promised, *four.clips[1:])), tmp_path, spec, rules)
    assert built.cached.entries[0].bucket == Bucket(9, 64, 96) and np.isfinite(built.cached.entries[0].latents()[0].numpy()).all()
    assert build(replace(four, clips=(promised, *four.clips[1:])), tmp_path, spec, rules).clips == 0  # it is remembered


def test_sizes_follow_the_models_rules(spec: ModelSpec) -> None:
    pocket = replace(spec, native_frames=49, max_frames=49, native_height=480, native_width=720)
    assert rules_of(pocket).lengths == (49, 41, 33, 25, 17, 9)
    assert rules_of(pocket, shapes="aspect").sizes == ((480, 720), (720, 480), (592, 592), (512, 672), (672, 512))
    assert rules_of(replace(pocket, position="learned", fixed_size=True), shapes="aspect") == Rules((49,), ((480, 720),), pocket.fps)
    for wish, field in (({"frames": 48}, "frames"), ({"frames": 57}, "frames"), ({"size": (481, 720)}, "size"), ({"fps": 0.0}, "fps"),
                        ({"shapes": "any"}, "shapes")):
        with pytest.raises(InvalidRequest) as error:
            rules_of(pocket, **wish)  # type: ignore[arg-type]
        assert error.value.field == field
