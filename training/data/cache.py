"""Everything a trainer reads of a dataset, encoded once and kept by what it was made from.

    folder/cache/latents/<key>.safetensors   moments (2C, F', h, w) of the clip and of its first frame alone, and that frame
    folder/cache/texts/<key>.safetensors     encoding (tokens, width) of one caption, and of ""
    folder/cache/sets/<digest>.json          which of them make one set: what a run trains on, whatever is edited later

The key of a latent is the hash of the source's bytes, the part of it, its bucket, rate and fit, the VAE's weights and the arithmetic;
that of a text the hash of the words, the text encoder's weights and the arithmetic. So an edited caption makes one new text and
nothing else. Posterior moments are kept instead of a sample, so that training draws a fresh one at every visit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine.errors import Cancelled, InvalidRequest
from engine.spec import ModelSpec, part_fingerprint
from engine.video.publish import write_atomic
from training.data.buckets import Bucket, Left, Placed, Rules, bucket_of, place, too_short
from training.data.checks import BAD, check
from training.data.files import source_path, unchanged
from training.data.records import Dataset
from training.data.store import Damaged, read_tensors, sound, write_tensors

if TYPE_CHECKING:
    from torch import Tensor


class Encoding(Protocol):
    """`training.data.encode.Encoders` (loads what it needs) and `LoadedEncoders` (of a model that is there)."""

    def text(self, words: str) -> Tensor: ...

    def moments(self, frames: Any) -> Tensor: ...


VERSION = 2
"""Goes up when the same clip would be encoded otherwise."""
Progress = Callable[[str, int, int], None]
"""(what: 'captions' or 'clips', how many are done, of how many)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One clip as it is trained on. Its numbers are read, and checked, whenever they are asked for."""

    key: str
    """64 hex digits: changes with anything that changes its numbers."""
    clip: str
    """Its id in the dataset."""
    split: str
    """'train' or 'held-out'."""
    bucket: Bucket
    caption: str
    """As encoded, prefix and all."""
    folder: Path
    """Of the cache."""
    latents_key: str
    text_key: str

    def latents(self) -> tuple[Tensor, Tensor]:
        """(mean, std) of the posterior, float32 (channels, latent frames, height, width), unscaled: a sample is mean + std * noise,
        and what the transformer sees is that times `spec.scaling_factor`. Raises `Damaged`, as all of these."""
        return posterior(_read(self.folder, latents_file(self.folder, self.latents_key))["moments"])

    def first_frame(self) -> tuple[Tensor, Tensor]:
        """The same of the first frame encoded alone, float32 (channels, 1, height, width): what image to video starts from."""
        return posterior(_read(self.folder, latents_file(self.folder, self.latents_key))["first"])

    def picture(self) -> Tensor:
        """The first frame as it was encoded, uint8 (height, width, 3)."""
        return _read(self.folder, latents_file(self.folder, self.latents_key))["picture"]

    def text(self) -> Tensor:
        """(max_text_tokens, text_width) in the dtype it was encoded in."""
        return _read(self.folder, text_file(self.folder, self.text_key))["text"]


@dataclass(frozen=True, slots=True)
class CachedSet:
    """A dataset encoded for one model, with nothing left to decide."""

    digest: str
    """64 hex digits over all of it: equal digests are equal training data, in the same order."""
    model: str
    fingerprint: str
    """Of the whole checkpoint it was encoded with."""
    dtype: str
    fps: float
    entries: tuple[Entry, ...]
    """In the order of the dataset."""
    left: tuple[tuple[str, str], ...]
    """(where a clip is from, why it is not here)."""
    folder: Path
    empty_key: str

    @property
    def train(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.split == "train")

    @property
    def held_out(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.split == "held-out")

    def empty_text(self) -> Tensor:
        """(max_text_tokens, text_width): the encoding of "", which a dropped caption becomes, as Create's guidance has it."""
        return _read(self.folder, text_file(self.folder, self.empty_key))["text"]

    def damaged(self) -> tuple[str, ...]:
        """Names of files that are not as they were written, or gone. Reads all of them once."""
        files = {latents_file(self.folder, entry.latents_key) for entry in self.entries}
        files |= {text_file(self.folder, key) for key in (self.empty_key, *(entry.text_key for entry in self.entries))}
        return tuple(sorted(path.name for path in files if not sound(path)))


@dataclass(frozen=True, slots=True)
class Built:
    """What `build` did."""

    cached: CachedSet
    texts: int
    """Captions encoded now."""
    clips: int
    """Clips encoded now."""
    repaired: tuple[str, ...]
    """What was found damaged and encoded again, in words."""


def posterior(moments: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, std) in float32 of moments (2C, ...), the logarithm of the variance bounded as diffusers' `DiagonalGaussianDistribution`."""
    import torch

    mean, spread = moments.float().chunk(2, dim=0)
    return mean, torch.exp(0.5 * spread.clamp(-30.0, 20.0))


def cache_folder(folder: Path) -> Path:
    """Below a dataset's own folder."""
    return folder / "cache"


def latents_file(cache: Path, key: str) -> Path:
    return cache / "latents" / f"{key}.safetensors"


def text_file(cache: Path, key: str) -> Path:
    return cache / "texts" / f"{key}.safetensors"


def _read(cache: Path, path: Path) -> dict[str, Tensor]:
    """Raises `Damaged`, also where the set was deleted under a run."""
    try:
        return read_tensors(path)
    except OSError as error:
        raise Damaged(f"{path.name[:16]}... in the cache of the dataset {cache.parent.name} cannot be read ({error.strerror}). Where the "
                      "set is still there, encode it again, or resume the run; where it was deleted, begin a new run with "
                      "another one.") from error


def build(dataset: Dataset, folder: Path, spec: ModelSpec, rules: Rules, *, device: str = "cpu", dtype: str = "fp32",
          encoders: Encoding | None = None, way: str = "", progress: Progress = lambda what, done, of: None,
          stopped: Callable[[], bool] = lambda: False) -> Built:
    """Encodes what is missing or damaged and returns the set. `folder`: the dataset's own. `dtype`: arithmetic of the
    encoders, 'fp32' or 'bf16'. `encoders`: those of a model that is loaded, in that dtype; else the text encoder and then the VAE are
    loaded for it on `device`. `way`: words for what sets the encoders apart from the usual ones; other words, other keys.

    Clips that cannot be used are in `left` with the reason. Raises `InvalidRequest` (field 'dataset') if none is left to train on,
    `StorageBlocked`, `ModelInvalid`, `Cancelled`; what was encoded until then stays.
    """
    work = _Work(dataset, folder, spec, rules, ", ".join(filter(None, (dtype, way))), progress, stopped)
    report = check(dataset, spec, rules)
    usable = [each for each in report.placed if not report.stopped(each.clip.id)]
    work.left += [Left(clip, problem.text) for clip in dataset.used
                  if (problem := next((each for each in report.problems.get(clip.id, ()) if each.level == BAD), None)) is not None]
    if not any(report.splits[each.clip.id] == "train" for each in usable):
        words = report.messages[0][1] if report.messages else "None of its clips can be trained on."
        raise InvalidRequest("dataset", f"{words} `sprocket dataset check` says what is wrong with each.")
    with contextlib.ExitStack() as stack:
        encoders = encoders or _loading(stack, spec, dtype, device)
        texts = work.encode_texts(encoders, ["", *(dataset.text(each.clip) for each in usable)])
        refused = {each.clip.id: each.clip for each in usable if dataset.text(each.clip) in work.refused}
        work.left += [Left(clip, f"its caption {work.refused[dataset.text(clip)]}") for clip in refused.values()]
        placed = work.encode_clips(encoders, [each for each in usable if each.clip.id not in refused])
    entries = [_entry(each, key, texts[dataset.text(each.clip)], report.splits[each.clip.id], dataset, work.cache) for each, key in placed]
    if not any(entry.split == "train" for entry in entries):
        raise InvalidRequest("dataset", "none of its clips can be trained on: "
                             + "; ".join(f"{each.clip.origin}: {each.reason}" for each in work.left[:3]))
    cached = _kept(work, entries, texts[""])
    return Built(cached, work.texts, work.clips, tuple(work.repaired))


def open_set(folder: Path, digest: str) -> CachedSet:
    """A set that was built before, by its digest. Raises `Damaged` where it is gone or not what was written."""
    path = cache_folder(folder) / "sets" / f"{digest}.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if _digest_of(values) != digest:
            raise ValueError("its checksum differs")
        return _cached(values, digest, cache_folder(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"the list of what was trained on ({digest[:12]}...) cannot be read ({str(error)[:100]}). Build the set "
                      "again.") from error


def mend(cached: CachedSet, dataset: Dataset, spec: ModelSpec, rules: Rules, *, device: str = "cpu", dtype: str = "fp32",
         encoders: Encoding | None = None, way: str = "") -> tuple[str, ...]:
    """Encodes again what of a set is damaged on the disk or gone, exactly as it was; in words, what that is. Parameters as for `build`.

    `dataset` may have been edited since the set was built. Raises `Damaged` for what it does not give any more, `StorageBlocked`.
    """
    broken = set(cached.damaged())
    if not broken:
        return ()
    work = _Work(dataset, cached.folder.parent, spec, rules, ", ".join(filter(None, (dtype, way))))
    keys = {"": cached.empty_key} | {entry.caption: entry.text_key for entry in cached.entries}
    texts = [text for text, key in keys.items() if text_file(cached.folder, key).name in broken]
    entries = [entry for entry in cached.entries if latents_file(cached.folder, entry.latents_key).name in broken]
    placed = [work.place_of(entry) for entry in entries]
    if any(work.text_key(text) != keys[text] for text in texts):
        raise Damaged(f"captions in the cache of {dataset.name!r} are damaged on the disk, and this Sprocket would encode them otherwise. "
                      "Begin a new run.")
    with contextlib.ExitStack() as stack:
        encoders = encoders or _loading(stack, spec, dtype, device)
        work.encode_texts(encoders, texts)
        if work.refused:
            raise Damaged(f"a caption in the cache of {dataset.name!r} is damaged on the disk and cannot be made again: "
                          f"{next(iter(work.refused.values()))} Begin a new run.")
        for entry, where in zip(entries, placed, strict=True):
            work.encode_again(encoders, entry, where)
    return tuple(f"the encoding of {text[:60]!r} was damaged or gone, and was made again." for text in texts) + tuple(
        f"the latents of {each.clip.origin} were damaged or gone, and were made again." for each in placed)


def _loading(stack: contextlib.ExitStack, spec: ModelSpec, dtype: str, device: str) -> Encoding:
    from training.data.encode import Encoders  # torch, and all of the engine

    return stack.enter_context(Encoders(spec, dtype=dtype, device=device))


class _Work:
    """One build under way."""

    def __init__(self, dataset: Dataset, folder: Path, spec: ModelSpec, rules: Rules, dtype: str,
                 progress: Progress = lambda what, done, of: None, stopped: Callable[[], bool] = lambda: False) -> None:
        self.dataset, self.folder, self.spec, self.rules, self.dtype = dataset, folder, spec, rules, dtype
        self.progress, self.stopped = progress, stopped
        self.cache = cache_folder(folder)
        self.left: list[Left] = []
        self.repaired: list[str] = []
        self.refused: dict[str, str] = {}
        """Text -> what the encoder says against it: too many tokens, which nothing but the encoder counts for some checkpoints."""
        self.texts = self.clips = 0
        self.encoder_print, self.vae_print = part_fingerprint(spec, "text_encoder"), part_fingerprint(spec, "vae")

    def encode_texts(self, encoders: Encoding, texts: Sequence[str]) -> dict[str, str]:
        """Text -> key; without those that are `refused`. Raises `InvalidRequest` where "" is."""
        keys = {text: self.text_key(text) for text in texts}
        missing = [text for text, key in keys.items() if self._wanted(text_file(self.cache, key), f"the encoding of {text[:60]!r}")]
        for done, text in enumerate(missing):
            self._step("captions", done, len(missing))
            try:
                write_tensors(text_file(self.cache, keys[text]), {"text": encoders.text(text)})
            except InvalidRequest as error:
                if not text:
                    raise
                self.refused[text] = error.message
                del keys[text]
                continue
            self.texts += 1
        self.progress("captions", len(missing), len(missing))
        return keys

    def text_key(self, text: str) -> str:
        return _key("text", text, self.spec.max_text_tokens, self.encoder_print, self.dtype)

    def encode_clips(self, encoders: Encoding, placed: Sequence[Placed]) -> list[tuple[Placed, str]]:
        """(where it landed at last, key) of every clip that can be read."""
        result = []
        for done, each in enumerate(placed):
            self._step("clips", done, len(placed))
            try:
                where, key = self._clip(encoders, each)
            except InvalidRequest as error:
                self.left.append(Left(each.clip, error.message))
                continue
            result.append((where, key))
        self.progress("clips", len(placed), len(placed))
        return result

    def _clip(self, encoders: Encoding, placed: Placed) -> tuple[Placed, str]:
        """Encoded unless it is there. A clip that gives fewer frames than its length promised goes to a shorter bucket."""
        short = self._short_file(self._latents_key(placed))
        placed, key = self._settled(placed)
        if not self._wanted(latents_file(self.cache, key), f"the latents of {placed.clip.origin}"):
            return placed, key
        frames = self._frames(placed)
        if len(frames) < placed.bucket.frames:
            write_atomic(short, str(len(frames)).encode())
            before, placed = placed, self._shorter(placed, len(frames))
            key = self._latents_key(placed)
            frames = frames[:placed.bucket.frames] if placed.start == before.start else self._frames(placed)
        self._write(encoders, key, frames)
        return placed, key

    def _write(self, encoders: Encoding, key: str, frames: Any) -> None:
        write_tensors(latents_file(self.cache, key), {"moments": encoders.moments(frames), "first": encoders.moments(frames[:1]),
                                                      "picture": _tensor(frames[0])})
        self.clips += 1

    def _short_file(self, key: str) -> Path:
        """How many frames there were when a clip was read that has fewer than it promised."""
        return self.cache / "latents" / f"{key}.frames"

    def _settled(self, placed: Placed) -> tuple[Placed, str]:
        """(where it lands, key) by what is known of it."""
        key = self._latents_key(placed)
        short = self._short_file(key)
        if not short.is_file() or not short.read_text().isdigit():
            return placed, key
        placed = self._shorter(placed, int(short.read_text()))
        return placed, self._latents_key(placed)

    def place_of(self, entry: Entry) -> Placed:
        """The clip, or piece of one, that an entry was made of. Raises `Damaged` where the dataset has no such one any more."""
        clips = [clip for clip in self.dataset.clips if clip.id == entry.clip]
        for each in place(self.dataset, self.rules, clips)[0]:
            with contextlib.suppress(InvalidRequest):
                placed, key = self._settled(each)
                if key == entry.latents_key:
                    return placed
        origin = clips[0].origin if clips else f"a clip that is no longer there ({entry.caption[:40]!r})"
        raise Damaged(f"the latents of {origin} in the cache of {self.dataset.name!r} are damaged on the disk, and the set, as it was "
                      "edited since, does not give them again. Put fit, skipped frames and clips back as they were, or begin a new run.")

    def encode_again(self, encoders: Encoding, entry: Entry, placed: Placed) -> None:
        """Raises `Damaged` where the clip cannot be read as it was."""
        try:
            frames = self._frames(placed)
            if len(frames) != entry.bucket.frames:
                raise InvalidRequest("video", f"it gives {len(frames)} frames, and {entry.bucket.frames} are needed.")
        except InvalidRequest as error:
            raise Damaged(f"the latents of {placed.clip.origin} in the cache of {self.dataset.name!r} are damaged on the disk and cannot "
                          f"be made again: {error.message} The run goes on when its file is back; else begin a new one.") from error
        self._write(encoders, entry.latents_key, frames)

    def _frames(self, placed: Placed) -> Any:
        from training.data.frames import clip_frames

        clip, bucket = placed.clip, placed.bucket
        path = source_path(clip, self.folder)
        try:
            if not unchanged(clip, path):
                raise InvalidRequest("video", f"{path.name} was changed after it was taken in. Import the set again.")
        except OSError as error:
            raise InvalidRequest("video", f"{path.name} is not where it was ({error.strerror}). Put it back, or import the set "
                                          "again.") from error
        return clip_frames(clip, path, frames=bucket.frames, width=bucket.width, height=bucket.height, fps=self.rules.fps,
                           fit=self.dataset.fit, span=self.dataset.span(clip), start=placed.start)

    def _shorter(self, placed: Placed, frames: int) -> Placed:
        """Where it lands with so few frames."""
        if placed.start and frames == placed.bucket.frames - 1:  # the clip is a frame shorter than it says: so its last piece ends there
            return replace(placed, start=placed.start - 1)
        bucket = bucket_of(frames, placed.clip.width, placed.clip.height, self.rules)
        if bucket is None:
            raise InvalidRequest("video", too_short(frames, frames / self.rules.fps, self.rules, self.dataset))
        return replace(placed, bucket=bucket, frames=frames)

    def _latents_key(self, placed: Placed) -> str:
        clip, bucket = placed.clip, placed.bucket
        begin, end = self.dataset.span(clip)
        rate = clip.fps if clip.kind == "frames" else 0.0
        # Pieces are frames of the whole clip's own grid: where one began at a time of its own, the first picture after that time was often
        # too late, and its last frame missing.
        piece = ("from frame", placed.start) if placed.start else ()
        return _key("latents", clip.sha256, begin, end, rate, bucket.frames, bucket.height, bucket.width, self.rules.fps,
                    self.dataset.fit, self.vae_print, self.dtype, *piece)

    def _wanted(self, path: Path, what: str) -> bool:
        """Whether it must be encoded; says so if it is there and damaged."""
        state = sound(path)
        if state is False:
            self.repaired.append(f"{what} was damaged on the disk and is encoded again.")
        return not state

    def _step(self, what: str, done: int, of: int) -> None:
        if self.stopped():
            raise Cancelled(f"Stopped with {done} of {of} {what} encoded. What is done stays.")
        self.progress(what, done, of)


def _tensor(pixels: Any) -> Tensor:
    import torch

    return torch.from_numpy(pixels.copy())


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([VERSION, *parts], ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def _entry(placed: Placed, latents_key: str, text_key: str, split: str, dataset: Dataset, cache: Path) -> Entry:
    return Entry(_key("entry", latents_key, text_key), placed.clip.id, split, placed.bucket, dataset.text(placed.clip), cache, latents_key,
                 text_key)


def _kept(work: _Work, entries: Sequence[Entry], empty_key: str) -> CachedSet:
    """The set, with its list on the disk."""
    values = {"version": VERSION, "model": work.spec.name, "fingerprint": work.spec.fingerprint, "dtype": work.dtype,
              "fps": work.rules.fps, "empty": empty_key, "left": [[each.clip.origin, each.reason] for each in work.left],
              "entries": [{"key": each.key, "clip": each.clip, "split": each.split, "caption": each.caption, "latents": each.latents_key,
                           "text": each.text_key, "bucket": [each.bucket.frames, each.bucket.height, each.bucket.width]}
                          for each in entries]}
    digest = _digest_of(values)
    write_atomic(work.cache / "sets" / f"{digest}.json", json.dumps(values, ensure_ascii=False, indent=1).encode())
    return _cached(values, digest, work.cache)


def _digest_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def _cached(values: dict[str, Any], digest: str, cache: Path) -> CachedSet:
    entries = tuple(Entry(each["key"], each["clip"], each["split"], Bucket(*each["bucket"]), each["caption"], cache, each["latents"],
                          each["text"]) for each in values["entries"])
    left = tuple((str(origin), str(reason)) for origin, reason in values["left"])
    return CachedSet(digest, values["model"], values["fingerprint"], values["dtype"], values["fps"], entries, left, cache, values["empty"])
