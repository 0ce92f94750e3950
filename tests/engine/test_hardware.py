"""What nvidia-smi says, and which of several GPUs is taken."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app import doctor
from app.queue import door
from engine import hardware
from engine.hardware import MIB, detect

TOTAL = 81920
Cards = Callable[..., None]


@pytest.fixture
def cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cards:
    """Puts an nvidia-smi on the path that tells of GPUs with so many MiB free, and a torch that was built for them."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(hardware, "_torch_has_cuda", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "")
    monkeypatch.delenv("CUDA_DEVICE_ORDER")

    def there_are(*free: int) -> None:
        rows = [f"{number}, A card, {TOTAL}, {size}, 9.0, 3" for number, size in enumerate(free)]
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!{sys.executable}\nprint({chr(10).join(rows)!r})\n")
        program.chmod(0o755)

    return there_are


def test_the_emptiest_is_taken_and_cuda_counts_as_nvidia_smi_does(cards: Cards) -> None:
    cards(30000, 70000)
    found = detect()
    assert (found.device, found.free_bytes, found.capability) == ("cuda:1", 70000 * MIB, (9, 0))
    assert [(gpu.device, gpu.free_bytes, gpu.load) for gpu in found.gpus] == [("cuda:0", 30000 * MIB, 3), ("cuda:1", 70000 * MIB, 3)]
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@pytest.mark.parametrize(("program", "words"), [
    ("import sys; assert sys.argv[1] == 'cuda:0'", ""),
    ("raise RuntimeError('The NVIDIA driver on your system is too old')", "too old). Update the NVIDIA driver"),
    ("raise SystemExit(3)", "it ended with code 3")], ids=["usable", "driver", "dead"])
def test_doctor_asks_torch_whether_it_can_use_the_gpu(program: str, words: str, cards: Cards, monkeypatch: pytest.MonkeyPatch) -> None:
    cards(30000)
    monkeypatch.setattr(doctor, "ASK_TORCH", program)
    found = doctor._hardware()
    assert found.ok == (not words) and words in found.detail and "A card (cuda:0)" in found.detail


def test_a_model_stays_on_the_gpu_that_holds_it(cards: Cards) -> None:
    held = {"cuda:0": 20000 * MIB}
    cards(60000, 80900)  # a context takes a little of the first
    found = detect(held=held)
    assert (found.device, found.free_bytes) == ("cuda:0", 80000 * MIB)
    assert [gpu.held_bytes for gpu in found.gpus] == [20000 * MIB, 0]
    cards(30000, 80900)  # others work there now: it is not as good any more
    assert detect(held=held).device == "cuda:1"
    cards(70000, 10)
    assert detect(held=held).free_bytes == TOTAL * MIB


def test_weights_that_wait_in_memory_count_as_free(cards: Cards, monkeypatch: pytest.MonkeyPatch) -> None:
    cards(70000)
    bare = door.SprocketEngine().hardware()
    assert bare.ram_bytes is not None
    monkeypatch.setattr(door, "_resident", lambda pid: door.GPU_PROGRAM + 2**20)
    monkeypatch.setattr(hardware, "_cpu", lambda: hardware.Hardware(device="cpu", name="x", total_bytes=2**40, free_bytes=2**30, cores=1,
                                                                    bf16=True))
    assert door.SprocketEngine().hardware().ram_bytes == 2**30 + 2**20
