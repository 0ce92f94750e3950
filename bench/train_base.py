"""What storing or moving the frozen base does to a LoRA's gradient: `python -m bench.train_base [--clips 4]`.

The pocket model, clips of its own world, a LoRA after a few updates, so that both of its matrices have gradients. The gradient of the
same passes is taken again and again, each time with the base kept another way, and compared with that of the resident float32 base:

    bits      policies (recompute, offload) and streamed blocks must give the very bits
    cosine    8-bit storage, by rows as it is used; the rest of the table rounds by whole matrices and finer blocks, to see what a finer
              scale would bring

Exit status 1 where bits differ, or int8 is below the limit.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from engine.hardware import detect
from engine.models.catalogue import find
from engine.models.eight_bit import CODES, LARGEST
from engine.models.layout import shrinks
from engine.spec import ModelSpec, read_spec
from training.lora.base import load_base
from training.lora.config import TrainConfig
from training.lora.loop import Trainer
from training.lora.rundir import RunDir
from training.lora.samples import HeldSet, encode_set, pocket_world

LIMIT = 0.999
PASSES = 8
UPDATES = 4
GROUPS: tuple[tuple[str, int], ...] = (("matrix", -1), ("row", 0), ("128", 128), ("32", 32), ("16", 16))


def rounded(weight: Tensor, precision: str, group: int) -> Tensor:
    """`weight` (out, in) after a trip through `precision` with one scale for each `group` numbers of a row (0: the row, -1: all)."""
    codes = CODES[precision]
    most = LARGEST[codes]
    rows = weight.reshape(1, -1) if group < 0 else weight if not group or weight.shape[1] % group else weight.reshape(-1, group)
    scale = (rows.abs().amax(dim=1, keepdim=True) / most).clamp(min=1e-30)
    spread = (rows / scale).clamp(-most, most)
    return ((spread.round() if codes == torch.int8 else spread).to(codes).float() * scale).reshape(weight.shape)


def made(spec: ModelSpec, config: TrainConfig, samples: HeldSet, *, policy: tuple[str, ...] = (), streamed: str = "") -> Trainer:
    machine = detect("cpu")
    return Trainer(load_base(spec, config, machine, streamed), config, samples, RunDir(spec.path), machine, policy=policy)


def gradient(trainer: Trainer, adapter: dict[str, Tensor]) -> Tensor:
    """Of `PASSES` passes, all in one row."""
    trainer.adapter.load(adapter, None)
    trainer.optimizer.zero_grad(set_to_none=True)
    for at in range(PASSES):
        chosen = [trainer.samples.train[index] for index in trainer.order.at(at)]
        trainer.backward(chosen, at, PASSES)
    return torch.cat([parameter.grad.flatten() for parameter in trainer.adapter.parameters.values() if parameter.grad is not None]).double()


def exact(spec: ModelSpec, config: TrainConfig, samples: HeldSet, adapter: dict[str, Tensor], wanted: Tensor) -> bool:
    """Every way that must give the same bits; True if all do."""
    good, count = True, spec.layers
    for what, policy, streamed in (("recompute", ("recompute",) * count, ""), ("offload", ("offload",) * count, ""),
                                   ("recompute, streamed from memory", ("recompute",) * count, "ram"),
                                   ("offload, streamed from files", ("offload",) * count, "disk")):
        one = made(spec, config, samples, policy=policy, streamed=streamed)
        same = torch.equal(gradient(one, adapter), wanted)
        print(f"{what:<36} bits equal: {same}", flush=True)
        good = good and same
        one.model.close()
    return good


def cosines(spec: ModelSpec, config: TrainConfig, samples: HeldSet, adapter: dict[str, Tensor], wanted: Tensor) -> bool:
    """8-bit storage; True if int8 as it is used is good enough."""
    reached = {}
    for precision in ("int8", "fp8"):
        one = made(spec, replace(config, base=precision), samples)
        reached[precision] = float(torch.nn.functional.cosine_similarity(gradient(one, adapter), wanted, dim=0))
        print(f"stored in {precision + ', as used (a scale a row)':<40} cosine {reached[precision]:.5f}", flush=True)
        one.model.close()
    for precision in ("int8", "fp8"):
        for word, group in GROUPS:
            one = made(spec, config, samples)
            layers = [(name, layer) for name, layer in one.model.transformer.named_modules()
                      if type(layer) is torch.nn.Linear and "lora_" not in name
                      and shrinks(f"{name.removesuffix('.base_layer')}.weight", tuple(layer.weight.shape))]
            error = size = 0.0
            with torch.no_grad():
                for _name, layer in layers:
                    value = rounded(layer.weight, precision, group)
                    error, size = error + float((value - layer.weight).square().sum()), size + float(layer.weight.square().sum())
                    layer.weight.copy_(value)
            cosine = float(torch.nn.functional.cosine_similarity(gradient(one, adapter), wanted, dim=0))
            print(f"rounded to {precision}, a scale for each {word:<8} cosine {cosine:.5f}   weights off by {(error / size) ** 0.5:.3%}",
                  flush=True)
            one.model.close()
    return reached["int8"] >= LIMIT


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.train_base", description=__doc__)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=9)
    asked = parser.parse_args(argv)
    spec = read_spec(find("pocket"), "pocket")
    config = TrainConfig(model="pocket", dataset="pocket-world", name="base", rank=16, targets="attention+ff", precision="fp32",
                         learning_rate=1e-3, warmup=0, caption_dropout=0.0, device="cpu")
    whole = load_base(spec, config, detect("cpu"))
    samples = encode_set(whole, pocket_world(asked.clips, frames=asked.frames, held_out=0))
    first = Trainer(whole, config, samples, RunDir(spec.path), detect("cpu"))
    for _ in range(UPDATES):
        first.update()
    adapter = first.adapter.tensors()
    wanted = gradient(first, adapter)
    print(f"pocket, {asked.clips} clips of {asked.frames} frames, rank {config.rank} on attention and feed-forward, after {UPDATES} "
          f"updates; the gradient of {PASSES} passes", flush=True)
    bits = exact(spec, config, samples, adapter, wanted)
    near = cosines(spec, config, samples, adapter, wanted)
    return 0 if bits and near else 1


if __name__ == "__main__":
    raise SystemExit(main())
