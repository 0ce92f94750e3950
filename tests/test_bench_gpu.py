"""`make bench-gpu` on a machine without a GPU: its self-test runs every part; its verdicts are plain arithmetic."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.gpu.ends import lean_words
from bench.gpu.report import Findings, add_totals, verdicts

ROOT = Path(__file__).resolve().parents[1]
PARTS = {"ceilings": "composite ceiling", "ends": "ours, streamed, exact", "5b": "5B: of ours, 'ours' counts",
         "2b": "2B: of ours, 'ours' counts", "parallel": "5B cfg=1,ulysses=2,ring=1",
         "8-bit": "INT8 weights and activations", "whole": "least memory takes"}


@pytest.mark.timeout(600)  # 20 s of one free core; much more where others want it too
def test_the_self_test_runs_every_part(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-m", "bench.gpu", "--self-test", "--results", str(tmp_path / "results")], check=False,
                          cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "SELF-TEST with toys on the processor" in done.stdout and "self-test passed" in done.stdout
    for part, words in PARTS.items():
        assert words in done.stdout.split(f"== {part}:")[1].split("\n==")[0], part
    assert "FAILED" not in done.stdout
    assert "reached" not in done.stdout  # no verdict on times that mean nothing
    assert not (tmp_path / "results").exists()


def test_totals_and_verdicts() -> None:
    numbers = {"5B step": 1.2, "5B ceiling": 1.08, "5B 8-bit step": 0.8, "text": 0.1, "decode": 1.4}
    add_totals(numbers)
    assert numbers["5B total"] == pytest.approx(61.5)
    assert numbers["5B 8-bit total"] == pytest.approx(41.5)
    assert numbers["5B of ceiling"] == pytest.approx(0.9)
    assert "2B total" not in numbers
    said = {line[:52].strip(): line.rsplit(": ", 1)[1] for line in verdicts(numbers)}
    assert said["5B in bf16, 50 steps + text + decode"] == "reached"
    assert said["5B, composite ceiling of this run over its step"] == "reached"
    assert said["2B, 50 steps + text + decode"] == "not measured"
    del numbers["decode"]
    add_totals(none := {"5B step": 1.2, "text": 0.1})
    assert "5B total" not in none
    late = dict.fromkeys(("5B total",), 63.0) | {"5B of ceiling": 0.84}
    said = {line[:52].strip(): line.rsplit(": ", 1)[1] for line in verdicts(late)}
    assert said["5B in bf16, 50 steps + text + decode"] == "NOT REACHED"
    assert said["5B, composite ceiling of this run over its step"] == "NOT REACHED"


def test_a_failing_part_leaves_the_others_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    from bench.gpu.__main__ import one
    from bench.gpu.device import open_device

    device, found = open_device(self_test=True), Findings()

    def breaks(_left: float) -> None:
        raise RuntimeError("no kernel image is available")

    import time
    begun = time.monotonic()
    assert one("first", "breaks", 0.5, breaks, device, found, begun, 100.0) is False
    assert one("second", "works", 0.5, lambda left: found.put("seconds", left), device, found, begun, 100.0) is True
    assert 40 < found.numbers["seconds"] <= 50
    assert "FAILED: RuntimeError: no kernel image" in capsys.readouterr().out
    assert one("third", "is too late", 0.9, breaks, device, found, begun - 90, 100.0) is True
    assert "left out" in found.lines[-1]


def test_ours_is_prepared_with_the_tables_that_the_engine_prepares_with(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.gpu import variants
    from bench.gpu.device import open_device
    from bench.gpu.models import Stepping, build, case

    device, toy, seen = open_device(self_test=True), case("CogVideoX-5b", toy=True), []
    true = variants.accelerate.prepare
    monkeypatch.setattr(variants.accelerate, "prepare",
                        lambda transformer, ways, tables, **how: seen.append(len(tables[0])) or true(transformer, ways, tables, **how))
    stepping = Stepping(toy, device, build(toy, "transformer", device))
    way = variants.ours(stepping, device)
    way.install()
    assert seen == [24]  # one frame's
    assert len(way.rotary if isinstance(way.rotary, torch.Tensor) else way.rotary[0]) == 3 * 24


def test_a_gpu_is_counted_as_nvidia_smi_does_before_cuda_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.gpu import device

    order, true = [], device.detect
    monkeypatch.setattr(device, "detect", lambda: order.append("detect") or true())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(order.append("CUDA")))
    device.open_device(self_test=False)
    assert order[:2] == ["detect", "CUDA"]


def test_the_lean_decoder_s_bits_are_said_to_be_stock_s_on_a_processor_only() -> None:
    assert lean_words(True, real=False) == "the lean decoder gives stock's bits here: yes, it is used"
    assert "bits" not in lean_words(True, real=True) and "but for rounding" in lean_words(True, real=True)
    assert lean_words(False, real=True).endswith("no, stock modules are used")
