"""Two processes by gloo, as `accelerate launch` starts them: the run of one, and one goes on with what they saved."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from app.queue.kinds.train import environment, launch_command
from engine.spec import read_spec
from tests.engine.tiny import CPU
from tests.training.lora_tools import config, random_set
from training.lora.opening import SAMPLES, save_set
from training.lora.rundir import EXITS, RunDir
from training.lora.session import Session


def here(run: RunDir, base: Path) -> str:
    return Session(run, read_spec(base), CPU, lambda _model: random_set()).work()


def test_two_ranks_train_as_one_and_one_goes_on_with_their_checkpoint(tiny_base: Path, tmp_path: Path) -> None:
    wanted = config(tiny_base, steps=6, save_steps=3, eval_steps=3, eval_clips=1, dropout=0.1, schedule="constant")
    one, two = RunDir(tmp_path / "one"), RunDir(tmp_path / "two")
    one.create(wanted)
    two.create(replace(wanted, steps=3))
    save_set(two.folder / SAMPLES, random_set())
    command = launch_command(two.folder, tmp_path, tmp_path, "cpu", processes=2)
    assert command[1:4] == ["-m", "training.ranks", "2"]  # not torchrun, whose store listens on every address
    done = subprocess.run(command, env=environment() | {"OMP_NUM_THREADS": "1"}, cwd=tmp_path, capture_output=True, timeout=200,
                          check=False)
    assert done.returncode == EXITS["done"], done.stderr.decode()[-2000:]
    assert here(one, tiny_base) == "done"
    _config, facts, _ = two.read()
    assert facts["processes"] == 2
    two.write(wanted, facts)
    assert here(two, tiny_base) == "done"

    alone, shared = ([event for event in run.events() if event["kind"] == "step"] for run in (one, two))
    assert [event["step"] for event in shared] == [1, 2, 3, 4, 5, 6]
    for by_one, by_two in zip(alone[:3], shared[:3], strict=True):
        assert len(by_two["times"]) < len(by_one["times"])  # it was shared out, not done twice
        assert by_one["times"][:len(by_two["times"])] == by_two["times"]
    for by_one, by_two in zip(alone, shared, strict=True):
        assert by_two["loss"] == pytest.approx(by_one["loss"], rel=1e-4)
    held = [[event["held_out"] for event in run.events() if event["kind"] == "eval"][-1] for run in (one, two)]
    assert held[1] == pytest.approx(held[0], rel=1e-4)


@pytest.mark.parametrize("theirs", ["NO", "DEEPSPEED", "MULTI_GPU"])
@pytest.mark.parametrize("processes", [1, 2])
def test_what_accelerate_config_once_wrote_decides_nothing(theirs: str, processes: int, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands import launch
    from accelerate.commands.config import config_args

    file = tmp_path / "default_config.yaml"
    file.write_text(f"distributed_type: {theirs}\nnum_processes: 4\ngpu_ids: '2,3'\nmixed_precision: fp16\n")
    for module in (launch, config_args):
        monkeypatch.setattr(module, "default_config_file", str(file))
    command = launch_command(tmp_path, tmp_path, tmp_path, "cuda:0", processes=processes)
    read, _theirs, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args(command[3:]))
    assert (read.multi_gpu, read.use_deepspeed, read.use_fsdp) == (processes > 1, False, False)
    assert (read.num_processes, read.gpu_ids, read.mixed_precision, read.use_cpu) == (processes, "all", "no", False)
