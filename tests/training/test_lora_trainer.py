"""The trainer on a tiny true architecture: its gradients are the plain loop's, its resume is exact, nothing beside it changes it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from peft import LoraConfig
from torch import Tensor

from engine.errors import InvalidRequest, StorageBlocked
from engine.lora import read_lora
from engine.spec import read_spec
from tests.engine.tiny import CPU, save_tiny
from tests.training.lora_tools import base_of, config, random_set, trainer
from training.lora import checkpoint, loop
from training.lora.forecast import choose_memory
from training.lora.loop import World
from training.lora.objective import Noise, squared_error
from training.lora.order import first_visit
from training.lora.preview import preview
from training.lora.rundir import RunDir
from training.lora.session import Session
from training.lora.trained import digest_of


def test_the_loss_is_the_published_one_in_exact_numbers(tiny_base: Path) -> None:
    noise = Noise(tiny_base)
    clean, drawn, said = (torch.randn(4, 3, 4, 8, 12, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in range(3))
    times = torch.tensor([0, 333, 700, 998])
    alpha = noise.alphas[times].view(-1, 1, 1, 1, 1)
    noisy, target = alpha.sqrt() * clean + (1 - alpha).sqrt() * drawn, alpha.sqrt() * drawn - (1 - alpha).sqrt() * clean
    guessed = alpha.sqrt() * noisy - (1 - alpha).sqrt() * said
    published = ((guessed - clean) ** 2 / (1 - alpha)).flatten(1).mean(1)
    torch.testing.assert_close(((said - target) ** 2).flatten(1).mean(1), published, rtol=1e-12, atol=0)
    ours, wanted = noise.noised(clean.float(), drawn.float(), times)
    torch.testing.assert_close(ours.double(), noisy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(wanted.double(), target, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["rope", "sincos", "1.5", "i2v-sincos", "i2v-1.5"])
def test_gradients_are_those_of_the_plain_peft_and_diffusers_loop(tmp_path: Path, kind: str) -> None:
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import CogVideoXPipeline

    base = base_of(tmp_path, kind)
    ours = trainer(base, tmp_path / "run", batch=2, accumulate=1, caption_dropout=0.0, image_dropout=0.0, image_noise=False)
    chosen = [ours.samples.train[index] for index in ours.order.at(0)]
    batch = ours.batches.visit(chosen, first_visit(0, 2))
    ours.backward(chosen, 0, len(chosen))

    stock = CogVideoXTransformer3DModel.from_pretrained(base / "transformer").requires_grad_(False)
    stock.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    with torch.no_grad():
        for name, parameter in stock.named_parameters():
            if "lora_" in name:
                parameter.copy_(ours.adapter.parameters[name.replace(".default", "")])
    pipeline = CogVideoXPipeline.from_pretrained(base, transformer=stock) if not kind.startswith("i2v") else None
    frames, height, width = batch.noisy.shape[1], 64, 96
    rotary = None
    if kind == "rope" and pipeline is not None:
        rotary = pipeline._prepare_rotary_positional_embeddings(height, width, frames, torch.device("cpu"))
    elif kind.endswith("1.5"):
        rotary = ours.model.rotary_for(tuple(batch.noisy.shape))
    scheduler = CogVideoXDDIMScheduler.from_pretrained(base / "scheduler")
    given = batch.noisy if batch.beside is None else torch.cat([batch.noisy, batch.beside], dim=2)
    out = stock(hidden_states=given, encoder_hidden_states=batch.text, timestep=batch.times, image_rotary_emb=rotary, return_dict=False,
                ofs=torch.full((1,), 2.0) if kind == "i2v-1.5" else None)[0]
    guessed = scheduler.get_velocity(out, batch.noisy, batch.times)
    alpha = scheduler.alphas_cumprod[batch.times].view(-1, 1, 1, 1, 1)
    clean = scheduler.get_velocity(batch.target, batch.noisy, batch.times)
    (((guessed - clean) ** 2 / (1 - alpha))[:, batch.padding:].flatten(1).mean(1).mean()).backward()
    found = {name.replace(".default", ""): parameter.grad for name, parameter in stock.named_parameters() if "lora_B" in name}
    assert found
    for name, gradient in found.items():
        mine = ours.adapter.parameters[name].grad
        assert mine is not None and gradient is not None
        torch.testing.assert_close(mine, gradient, rtol=1e-4, atol=1e-7)


def run_all(ours: Any, steps: int) -> list[float]:
    return [ours.update().loss for _ in range(steps)]


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.3, "ema": 0.9, "optimizer": "prodigy", "learning_rate": 1.0}, {"optimizer": "came"},
                                     {"optimizer": "adafactor"}, {"dora": True, "rslora": True, "optimizer": "adam"}],
                         ids=["adamw", "prodigy", "came", "adafactor", "dora"])
def test_a_run_that_stopped_anywhere_ends_as_one_that_did_not(tiny_base: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = trainer(tiny_base, tmp_path / "whole", **changes)
    losses = run_all(whole, 6)
    again: list[float] = []
    for stop in range(1, 7) if not changes else (3, 6):
        part = trainer(tiny_base, tmp_path / "parts", **changes)
        part.resume()
        torch.randn(7)  # what else a process draws must not matter
        again += run_all(part, stop - part.step)
        part.save()
    assert again == losses
    assert part.adapter.digest() == whole.adapter.digest()
    assert digest_of(part.adapter.final()) == digest_of(whole.adapter.final())


def test_on_a_gpu_a_pass_allows_exact_kernels_alone(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()), []
    ours = trainer(tiny_base, tmp_path)
    ours.exact = True
    there, back = ours.velocity, loop.squared_error

    def strict(result: Any) -> Any:
        seen.append(not torch.is_deterministic_algorithms_warn_only_enabled() and torch.are_deterministic_algorithms_enabled())
        return result

    monkeypatch.setattr(ours, "velocity", lambda *given: strict(there(*given)))
    monkeypatch.setattr(loop, "squared_error", lambda *given: strict_gradient(back(*given)))

    def strict_gradient(loss: Any) -> Any:
        loss.register_hook(strict)
        return loss

    try:
        ours.update()
        assert len(seen) >= 2 and all(seen)  # there and back
        assert torch.is_deterministic_algorithms_warn_only_enabled()  # for previews
        with loop.exact_gradients(False):
            assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def test_where_an_operation_has_no_exact_kernel_the_step_is_made_without(tiny_base: Path, tmp_path: Path,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, ours = trainer(tiny_base, tmp_path / "a", accumulate=2), trainer(tiny_base, tmp_path / "b", accumulate=2)
    losses = run_all(wanted, 2)
    ours.run.folder.mkdir(parents=True, exist_ok=True)
    before, there, ours.exact = torch.is_deterministic_algorithms_warn_only_enabled(), ours.backward, True

    def second_fails(samples: Any, position: int, total: int) -> Any:
        result = there(samples, position, total)
        if ours.exact and position == 1:
            raise RuntimeError("some_op_cuda does not have a deterministic implementation, but you set ...")
        return result

    monkeypatch.setattr(ours, "backward", second_fails)
    try:
        assert run_all(ours, 2) == losses and ours.adapter.digest() == wanted.adapter.digest()
    finally:
        torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled(), warn_only=before)
    (told,) = [event["text"] for event in ours.run.events() if event["kind"] == "warning"]
    assert "some_op_cuda" in told and not ours.exact
    monkeypatch.setattr(ours, "backward", lambda *_given: (_ for _ in ()).throw(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        ours.update()


def test_recomputing_and_offloading_give_the_same_bits(tiny_base: Path, tmp_path: Path) -> None:
    kept = trainer(tiny_base, tmp_path / "a", dropout=0.2)
    run_all(kept, 3)
    for number, policy in enumerate((("recompute",) * 3, ("offload", "recompute", "keep"))):
        other = trainer(tiny_base, tmp_path / str(number), policy=policy, dropout=0.2)
        run_all(other, 3)
        assert other.adapter.digest() == kept.adapter.digest()


@pytest.mark.parametrize("stored", ["same", "int8"])
@pytest.mark.parametrize("source", ["ram", "disk"])
def test_a_streamed_base_gives_the_same_bits(tiny_base: Path, tmp_path: Path, source: str, stored: str) -> None:
    kept = trainer(tiny_base, tmp_path / "kept", dropout=0.2, stored=stored)
    run_all(kept, 2)
    one = trainer(tiny_base, tmp_path / "run", policy=("offload", "recompute", "recompute"), dropout=0.2, stored=stored, streamed=source)
    run_all(one, 1)
    one.model.at_work("vae")  # a preview sends the transformer away
    run_all(one, 1)
    assert one.adapter.digest() == kept.adapter.digest() and one.look() == kept.look()
    stream = one.model.components["transformer"].stream
    assert stream is not None and stream.moved > 0
    weight = one.model.transformer.transformer_blocks[1].ff.net[2].weight if stored == "same" else \
        one.model.transformer.transformer_blocks[1].ff.net[2].codes
    assert weight.untyped_storage().nbytes() <= 4  # between two steps no block is on the device
    one.model.close()


def test_a_weight_in_eight_bits_is_not_kept_wide_for_the_gradient() -> None:
    from engine.models.eight_bit import EightBitLinear, in_eight_bits

    torch.manual_seed(0)
    layer = EightBitLinear(torch.nn.Linear(24, 16, device="meta"), torch.int8)
    layer.bias = torch.nn.Parameter(torch.randn(16), requires_grad=False)
    codes, scale = in_eight_bits(torch.randn(16, 24), torch.int8, torch.float32)
    layer.codes, layer.scale = (torch.nn.Parameter(value, requires_grad=False) for value in (codes, scale))
    given, kept = torch.randn(5, 24, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: (kept.append(tensor.dtype), tensor)[1], lambda tensor: tensor):
        out = layer(given)
    out.square().sum().backward()
    assert kept.count(torch.int8) == 1 and out.dtype == torch.float32
    plain = given.detach().clone().requires_grad_(True)
    again = torch.nn.functional.linear(plain, codes.float() * scale[:, None], layer.bias)
    again.square().sum().backward()
    assert torch.equal(out, again) and torch.equal(given.grad, plain.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("stored", ["int8", "fp8"])
def test_a_base_in_eight_bits_gives_nearly_the_same_gradients(tiny_base: Path, tmp_path: Path, stored: str) -> None:
    found = []
    for base in ("same", stored):
        one = trainer(tiny_base, tmp_path / base, stored=base)
        run_all(one, 2)
        one.backward([one.samples.train[0]], 9, 1)
        found.append(torch.cat([parameter.grad.flatten() for parameter in one.adapter.parameters.values() if parameter.grad is not None]))
    assert torch.nn.functional.cosine_similarity(found[0], found[1], dim=0) > (0.999 if stored == "int8" else 0.995)


def test_several_processes_see_the_same_data_and_noise(tiny_base: Path, tmp_path: Path) -> None:
    alone = trainer(tiny_base, tmp_path / "alone", accumulate=4)
    chosen = {at: [alone.samples.train[index] for index in alone.order.at(at)] for at in range(4)}
    total = sum(map(len, chosen.values()))
    for at in range(4):
        alone.backward(chosen[at], at, total)
    whole = {name: parameter.grad.clone() for name, parameter in alone.adapter.parameters.items() if parameter.grad is not None}
    summed: dict[str, Tensor] = {}
    for rank in range(2):
        one = trainer(tiny_base, tmp_path / f"rank{rank}", accumulate=4, world=World(rank, 2))
        for at in range(rank, 4, 2):
            one.backward([one.samples.train[index] for index in one.order.at(at)], at, total)
        for name, parameter in one.adapter.parameters.items():
            if parameter.grad is not None:
                summed[name] = summed.get(name, torch.zeros_like(parameter)) + parameter.grad
    for name, gradient in whole.items():
        torch.testing.assert_close(summed[name], gradient, rtol=1e-4, atol=1e-7)
    with pytest.raises(InvalidRequest, match="cannot share evenly"):
        trainer(tiny_base, tmp_path / "odd", accumulate=3, world=World(0, 2))


def test_the_lora_is_float32_over_a_bf16_base(tiny_base: Path, tmp_path: Path) -> None:
    one = trainer(tiny_base, tmp_path, precision="bf16")
    assert {parameter.dtype for parameter in one.adapter.parameters.values()} == {torch.float32}
    assert one.model.transformer.transformer_blocks[0].attn1.to_q.base_layer.weight.dtype == torch.bfloat16
    before = one.adapter.digest()
    assert math.isfinite(one.update().loss)
    one.update()
    assert one.adapter.digest() != before


def test_a_rank_above_the_layer_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="rank 32 at most"):
        trainer(tiny_base, tmp_path, rank=33)


def test_a_damaged_checkpoint_is_passed_over_and_said(tiny_base: Path, tmp_path: Path) -> None:
    one = trainer(tiny_base, tmp_path)
    for _ in range(3):
        one.update()
        one.save()
    newest, second = checkpoint.checkpoints(tmp_path / "checkpoints")[:2]
    data = bytearray((newest / "optimizer.safetensors").read_bytes())
    data[-3] ^= 1
    (newest / "optimizer.safetensors").write_bytes(bytes(data))
    (second / "state.json").write_bytes((second / "state.json").read_bytes()[:-4])
    again = trainer(tiny_base, tmp_path)
    wrong = again.resume()
    assert again.step == 1
    assert len(wrong) == 2 and "step-00000003/optimizer.safetensors is not as it was written" in wrong[0]


def test_a_disk_that_fills_leaves_the_checkpoints_there_were(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trainer(tiny_base, tmp_path)
    one.update()
    one.save()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    one.update()
    with pytest.raises(StorageBlocked):
        one.save()
    state, wrong = checkpoint.newest_state(tmp_path / "checkpoints")
    assert state is not None and state.step == 1 and wrong == ()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def session(base: Path, folder: Path, samples: Any = None, **changes: Any) -> Session:
    run = RunDir(folder)
    if not (folder / "run.json").exists():
        run.create(config(base, **changes))
    return Session(run, read_spec(base), CPU, lambda model: samples or random_set())


def test_steps_that_are_not_finite_change_nothing_and_end_the_run(tiny_base: Path, tmp_path: Path) -> None:
    samples = random_set()
    for entry in samples.entries:
        if entry.split == "train":
            entry.moments[0].fill_(math.nan)
    one = session(tiny_base, tmp_path, samples, max_bad_steps=3, eval_steps=0)
    assert one.work() == "failed"
    state, _ = checkpoint.newest_state(tmp_path / "checkpoints")
    assert state is not None and state.step == 3
    assert digest_of(state.adapter) == trainer(tiny_base, tmp_path / "fresh").adapter.digest()
    warnings = [event["text"] for event in one.run.events() if event["kind"] == "warning"]
    assert len(warnings) == 3 and "nothing was changed" in warnings[0]
    assert "learning rate" in one.run.state().message and "can be used" in one.run.state().message
    assert read_lora(one.run.lora_file("made")).rank == 4


def test_a_run_from_its_folder_with_looks_previews_and_export(tiny_base: Path, tmp_path: Path) -> None:
    one = session(tiny_base, tmp_path / "run", eval_steps=3, eval_clips=1, preview_steps=6, preview_frames=9, preview_sampling=2,
                  preview_prompts=("a fox",))
    assert one.work() == "done"
    events = one.run.events()
    looks = [event for event in events if event["kind"] == "eval"]
    assert [look["step"] for look in looks] == [0, 3, 6] and len(looks[0]["held_out"]) == 5
    shown = [event["step"] for event in events if event["kind"] in ("preview", "warning")]
    assert shown == [0, 6]  # a tiny random model may make a clip the health check rejects: that is said, and training goes on
    lora = read_lora(one.run.lora_file("made"))
    assert (lora.rank, lora.alpha) == (4, 4.0)
    assert "base_model:" in (tmp_path / "run/lora/README.md").read_text()
    plain = session(tiny_base, tmp_path / "plain", eval_steps=0)
    assert plain.work() == "done"
    first, second = (checkpoint.newest_state(run / "checkpoints")[0] for run in (tmp_path / "run", tmp_path / "plain"))
    assert first is not None and second is not None and digest_of(first.adapter) == digest_of(second.adapter)


def test_a_run_says_how_fast_its_steps_were(tiny_base: Path, tmp_path: Path) -> None:
    one = session(tiny_base, tmp_path, eval_steps=0)
    assert one.work() == "done"
    choice = choose_memory(one.spec, one.config, CPU)
    assert RunDir(tmp_path).read()[1]["flops_per_second"] == pytest.approx(choice.flops / median(one.paces))


def test_a_preview_leaves_the_lora_and_the_generators_alone(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", "rope")
    one = trainer(base, tmp_path / "run", ema=0.5)
    run_all(one, 2)
    before, drawn = one.adapter.digest(), torch.get_rng_state()
    told: list[int] = []
    try:
        preview(one.model, one.adapter, config(base, preview_frames=9, preview_sampling=2), CPU, "a fox", tmp_path / "shown", number=0,
                cancelled=lambda: False, tell=lambda done, of: told.append(done))
        assert (tmp_path / "shown/0.mp4").is_file()
    except Exception as error:  # noqa: BLE001  a random model's picture may be refused, which is not what this is about
        assert type(error).__name__ == "OutputRejected"
    assert told and one.adapter.digest() == before and torch.equal(torch.get_rng_state(), drawn)
    assert all(not parameter.is_inference() for parameter in one.adapter.parameters.values())
    run_all(one, 1)


def test_wishes_pause_and_stop_and_a_run_goes_on_exactly(tiny_base: Path, tmp_path: Path) -> None:
    whole = session(tiny_base, tmp_path / "whole", eval_steps=0)
    assert whole.work() == "done"
    one = session(tiny_base, tmp_path / "run", eval_steps=0)
    told = one.told

    def pause_at_two(ours: Any, stepped: Any) -> None:
        told(ours, stepped)
        if ours.step == 2:
            one.run.ask("pause")

    one.told = pause_at_two  # type: ignore[method-assign]
    assert one.work() == "paused" and one.run.lora_file("made").is_file()
    one.run.granted("pause")
    after = session(tiny_base, tmp_path / "run")
    assert after.work() == "done"
    assert [event["step"] for event in after.run.events() if event["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "run/lora/made.safetensors").read_bytes() == (tmp_path / "whole/lora/made.safetensors").read_bytes()
    with pytest.raises(InvalidRequest, match="not what this run began with"):
        session(tiny_base, tmp_path / "run", random_set(seed=1)).work()


def test_events_after_a_kill_stand_once(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step in (1, 2, 3):
        run.tell("step", step=step, loss=float(step))
    with run.events_file.open("a") as file:
        file.write('{"kind": "step", "step": 4, "lo')  # cut off
    run.tell("resumed", step=1)
    run.tell("step", step=2, loss=2.0)
    assert [event.get("step") for event in run.events()] == [1, 1, 2]


def test_a_run_killed_before_its_first_checkpoint_begins_its_curves_anew(tiny_base: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 2, "warmup": 0, "eval_steps": 1, "eval_clips": 1, "dora": True}
    killed = session(tiny_base, tmp_path, **settings)
    begun = killed.prepare()
    assert killed.facts["layers"] == 12  # four of each of three blocks
    killed.look(begun)
    killed.told(begun, begun.update())
    killed.look(begun)
    again = session(tiny_base, tmp_path, **settings)
    assert again.work() == "done" and len(again.means) == 3
    told = [(event["kind"], event["step"]) for event in again.run.events() if event["kind"] in ("step", "eval")]
    assert told == [("eval", 0), ("step", 1), ("eval", 1), ("step", 2), ("eval", 2)]


def test_a_run_whose_process_died_is_interrupted_and_not_stuck(tmp_path: Path) -> None:
    from training.lora.rundir import RunState

    run = RunDir(tmp_path)
    run.set_state(RunState("running", 3, 9), alive=True)
    assert run.state().state == "running"
    values = json.loads((tmp_path / "state.json").read_text())
    values["process"] = [values["process"][0], values["process"][1] - 1000]
    (tmp_path / "state.json").write_text(json.dumps(values))
    assert run.state().state == "interrupted" and run.state().step == 3


def test_held_out_losses_do_not_depend_on_when_they_are_taken(tiny_base: Path, tmp_path: Path) -> None:
    one = trainer(tiny_base, tmp_path, learning_rate=1e-12)
    first = one.look()
    torch.randn(3)
    assert one.look() == first
    batch = one.batches.fixed(one.samples.held_out[0], 0, 499)
    assert squared_error(one.velocity(batch.noisy, batch.times, batch.text), batch).shape == (1,)
