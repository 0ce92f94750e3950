"""The writer's thread: hidden behind the decoder, bounded, and its failures reach the one who writes."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from engine.errors import StorageBlocked
from engine.video import writer as writing
from engine.video.probe import probe
from engine.video.writer import WAITING_CHUNKS, ClipWriter

RECIPE = {"app_version": "1", "request": {"model": "m", "seed": 1}}
PATIENCE = 20.0
SOON = 0.2


def chunk(number: int, frames: int = 2) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (frames, 32, 64, 3), dtype=np.uint8)


def open_writer(folder: Path, frames: int = 8) -> ClipWriter:
    return ClipWriter(folder / "clip.part", width=64, height=32, fps=8, frames=frames, recipe=RECIPE)


class Gate:
    """Holds the encoder before every frame until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        original = writing._Encoder.add

        def add(encoder: writing._Encoder, pixels: np.ndarray) -> None:
            self.reached.set()
            assert self.open.wait(PATIENCE)
            original(encoder, pixels)

        monkeypatch.setattr(writing._Encoder, "add", add)


def test_the_encoder_works_behind_the_decoder_and_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with open_writer(tmp_path, frames=2 * (WAITING_CHUNKS + 2)) as writer:
        writer.write(chunk(0))
        assert gate.reached.wait(PATIENCE)
        for number in range(WAITING_CHUNKS):  # not one frame is packed yet, and the decoder goes on
            writer.write(chunk(1 + number))
        last = threading.Thread(target=writer.write, args=(chunk(9),))
        last.start()
        last.join(SOON)
        assert last.is_alive()  # no room for more
        gate.open.set()
        last.join(PATIENCE)
        assert not last.is_alive()
        writer.finish()
    assert probe(tmp_path / "clip.part").frames == 2 * (WAITING_CHUNKS + 2)


def test_chunks_do_not_change_the_file(tmp_path: Path) -> None:
    frames = np.concatenate([chunk(number) for number in range(4)])
    files = set()
    for pieces in (1, 2, 8):
        with open_writer(tmp_path) as writer:
            for part in np.array_split(frames, pieces):
                writer.write(part)
            writer.finish()
        files.add(((tmp_path / "clip.part").read_bytes(), writer.poster))
    assert len(files) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_reaches_the_writer_whenever_it_is_noticed(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(writing._Encoder, "add", full)
        with pytest.raises(StorageBlocked, match="Nothing is lost"), open_writer(tmp_path) as writer:
            for number in range(100):  # far more than the queue holds: nobody waits for a dead encoder
                writer.write(chunk(number))
        assert not (tmp_path / "clip.part").exists()
    for name in ("add", "close"):
        with monkeypatch.context() as patch:
            patch.setattr(writing._Encoder, name, full)
            with pytest.raises(StorageBlocked), open_writer(tmp_path) as writer:
                writer.write(chunk(0))
                writer.finish()
        assert not (tmp_path / "clip.part").exists()
    with pytest.raises(StorageBlocked), monkeypatch.context() as patch:
        patch.setattr("engine.video.writer.av.open", full)
        open_writer(tmp_path)


def test_other_faults_of_the_thread_are_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object) -> None:
        raise ArithmeticError("a fault of the encoder")

    monkeypatch.setattr(writing._Encoder, "add", broken)
    with pytest.raises(ArithmeticError, match="a fault of the encoder"), open_writer(tmp_path) as writer:
        writer.write(chunk(0))
        writer.finish()
    assert not (tmp_path / "clip.part").exists()


def test_cancelling_drops_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    packed: list[int] = []
    inner = writing._Encoder.add
    monkeypatch.setattr(writing._Encoder, "add", lambda encoder, pixels: (packed.append(1), inner(encoder, pixels))[0])
    with pytest.raises(KeyboardInterrupt), open_writer(tmp_path, frames=100) as writer:
        for number in range(1 + WAITING_CHUNKS):
            writer.write(chunk(number, frames=30))
        assert gate.reached.wait(PATIENCE)
        threading.Timer(SOON, gate.open.set).start()
        raise KeyboardInterrupt
    assert len(packed) == 1  # the frame that was being packed, and none after it
    assert not (tmp_path / "clip.part").exists()
    assert not writer._thread.is_alive()


def test_frames_of_another_shape_are_a_fault_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not uint8"), open_writer(tmp_path) as writer:
        writer.write(np.zeros((1, 32, 60, 3), np.uint8))
    with pytest.raises(ValueError, match="not uint8"), open_writer(tmp_path) as writer:
        writer.write(np.zeros((1, 32, 64, 3), np.float32))
    assert not (tmp_path / "clip.part").exists()
