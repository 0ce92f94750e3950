"""Fused passes against diffusers' block, Triton kernels against their twins in torch, compiled blocks against plain ones."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.models import accelerate, attention, fused_block, kernels
from engine.models.chunked import use_chunks, use_whole
from engine.models.compiling import CompiledBlocks
from engine.models.fused_ops import TORCH, load_triton
from tests.engine.test_attention import install, step, tables, transformer
from tests.engine.tiny import TRANSFORMERS

ROOT = Path(__file__).resolve().parents[2]
NO_TRITON = importlib.util.find_spec("triton") is None


def complex_tables(kind: str) -> Any:
    return None if kind == "sincos" else attention.as_complex(tables(kind))


def where(model: Any) -> dict[str, Any]:
    return {"device": torch.device("cpu"), "dtype": model.dtype}


@pytest.mark.parametrize("kind", list(TRANSFORMERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_block_is_the_stock_block(kind: str, dtype: torch.dtype) -> None:
    model = transformer(kind, dtype)
    stock = step(model, kind, tables(kind))
    install(model, "native")
    assert fused_block.try_fused(model, TORCH, complex_tables(kind), **where(model)) == ""
    assert all("forward" in vars(block) for block in model.transformer_blocks)
    assert torch.equal(step(model, kind, complex_tables(kind)), stock)
    attention.pack_if_equal(model, 40)
    assert torch.equal(step(model, kind, complex_tables(kind)), stock)
    fused_block.use_stock(model)
    assert torch.equal(step(model, kind, complex_tables(kind)), stock)


def test_what_hangs_on_a_module_still_counts() -> None:
    model, kind = transformer(), "rope"
    install(model, "native")

    def doubled() -> Tensor:
        hooks = [model.transformer_blocks[0].attn1.register_forward_hook(lambda m, a, out: (out[0] * 2, out[1] * 2)),
                 model.transformer_blocks[1].ff.register_forward_hook(lambda m, a, out: out * 2)]
        made = step(model, kind, complex_tables(kind))
        for hook in hooks:
            hook.remove()
        return made

    expected = doubled()
    assert not torch.equal(expected, step(model, kind, complex_tables(kind)))
    fused_block.use_fused(model, TORCH)
    assert torch.equal(doubled(), expected)


def test_a_cache_in_the_place_of_attention_is_asked() -> None:
    model, kind = transformer(), "rope"
    install(model, "native")
    first = model.transformer_blocks[0]

    class Kept(torch.nn.Module):
        def __init__(self, true: Any) -> None:
            super().__init__()
            self.true, self.calls = (true,), 0

        def forward(self, **given: Any) -> tuple[Tensor, Tensor]:
            self.calls += 1
            return self.true[0](**given)

    stock = step(model, kind, complex_tables(kind))
    fused_block.use_fused(model, TORCH)
    first.attn1 = Kept(first.attn1)
    assert torch.equal(step(model, kind, complex_tables(kind)), stock)
    assert first.attn1.calls == 1


def test_chunks_come_and_go_over_fused_passes() -> None:
    model, kind = transformer(), "rope"
    install(model, "native")
    stock = step(model, kind, complex_tables(kind))
    fused_block.use_fused(model, TORCH)
    fused = [block.forward for block in model.transformer_blocks]
    for _ in range(2):
        use_chunks(model)
    assert (step(model, kind, complex_tables(kind)) - stock).abs().max() <= 1e-5
    for _ in range(2):
        use_whole(model)
    assert [block.forward for block in model.transformer_blocks] == fused
    assert torch.equal(step(model, kind, complex_tables(kind)), stock)


def test_a_fused_pass_that_errs_is_not_used() -> None:
    model = transformer()
    install(model, "native")
    stock = step(model, "rope", tables("rope"))

    def wrong(*given: Any) -> Tensor:
        return TORCH.modulated(*given) * 1.001

    def broken(*given: Any) -> Tensor:
        raise RuntimeError("no kernel image is available for execution on the device")

    assert "off by" in fused_block.try_fused(model, replace(TORCH, modulated=wrong), complex_tables("rope"), **where(model))
    assert "no kernel image" in fused_block.try_fused(model, replace(TORCH, modulated=broken), complex_tables("rope"), **where(model))
    assert torch.equal(step(model, "rope", tables("rope")), stock)
    assert not any("forward" in vars(block) for block in model.transformer_blocks)


@pytest.mark.parametrize("error", [subprocess.CalledProcessError(1, ["gcc"]), ImportError("failed to map segment from shared object")],
                         ids=["no Python.h", "cache without execution"])
def test_a_launcher_that_cannot_be_built_costs_a_note(error: Exception) -> None:
    def broken(*given: Any, **named: Any) -> Tensor:
        raise error

    model = transformer()
    install(model, "native")
    reason = fused_block.try_fused(model, replace(TORCH, modulated=broken), complex_tables("rope"), **where(model))
    assert f"it stopped with {type(error).__name__}" in reason
    assert not any("forward" in vars(block) for block in model.transformer_blocks)
    at = {"heads": 2, "width": 16, "dtype": torch.float32, "device": torch.device("cpu")}
    assert f"it stopped with {type(error).__name__}" in kernels.trial(broken, lossy=False, **at)
    stock = step(model, "rope", tables("rope"))
    blocks = CompiledBlocks(model, backend="eager")
    for block in model.transformer_blocks:
        block.forward.compiled = broken
    assert torch.equal(step(model, "rope", tables("rope")), stock)
    assert type(error).__name__ in blocks.problem


def test_without_triton_there_is_a_reason() -> None:
    found = load_triton()
    assert isinstance(found, str) == NO_TRITON
    if isinstance(found, str):
        assert "triton" in found


INTERPRETED = '''
import json, torch
from torch import nn
from engine.models import fused_ops
kernels, twin = fused_ops.load_triton(), fused_ops.TORCH
worst = {}
def compare(what, mine, other):
    for a, b in zip(mine, other):
        off = ((a.float() - b.float()).abs() / b.float().abs().clamp(min=1)).max()
        worst[what] = max(worst.get(what, 0.0), float(off))
def normal(layer):
    nn.init.normal_(layer.weight); nn.init.normal_(layer.bias)
    return layer
for dtype in (torch.float32, torch.float16):
    torch.manual_seed(0)
    for width, heads, bias in ((48, 3, True), (64, 2, True)):
        joint, change = torch.randn(2, 21, width, dtype=dtype), torch.randn(2, 21, width, dtype=dtype)
        text, video = joint[:, :5], joint[:, 5:]
        six = torch.randn(2, 6 * width, dtype=dtype).chunk(6, dim=1)
        norm = normal(nn.LayerNorm(width, eps=1e-5)).to(dtype)
        with torch.inference_mode():
            for layer in (norm, nn.LayerNorm(width, elementwise_affine=False)):
                given = (text, video, layer, (six[0], six[1]), (six[2], six[3].clone()))
                compare(f"modulated {dtype}", [kernels.modulated(*given)], [twin.modulated(*given)])
            compare(f"gated {dtype}", kernels.gated(text, video, change, *six[4:]), twin.gated(text, video, change, *six[4:]))
            for normed in (True, False):
                for turned in (True, False):
                    norms = [normal(nn.LayerNorm(16, eps=1e-6)).to(dtype) for _ in range(2)] if normed else [None, None]
                    angles = torch.rand(32, 8) * 6
                    table = torch.complex(angles.cos(), angles.sin()) if turned else None
                    mine = torch.randn(2, 37, 3 * heads * 16, dtype=dtype)
                    other = mine.clone()
                    for ops, packed in ((kernels, mine), (twin, other)):
                        query, key, value = (part.unflatten(2, (heads, -1)) for part in packed.chunk(3, dim=2))
                        ops.turned(query, key, *norms, 5, table)
                    compare(f"turned {dtype}", [mine], [other])
print(json.dumps(worst))
'''


@pytest.mark.skipif(NO_TRITON, reason="triton is not installed (torch's builds for processors come without it): its kernels are "
                                      "tested wherever it is, in its interpreter, and their twins in torch everywhere")
def test_triton_kernels_in_its_interpreter() -> None:
    """float32 to its last bits, float16 to one rounding. (The interpreter cuts bfloat16 off where a GPU rounds.)"""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], check=False, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    worst = json.loads(done.stdout.splitlines()[-1])
    assert len(worst) == 6
    for what, off in worst.items():
        assert off <= (2e-6 if "float32" in what else 2**-9), what


COMPILED = '''
import json, re, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from engine.models import triton_kernels as kernels
NUMBERS, PLAIN = {"table": "*fp32", "eps": "fp32"}, ("eps", "text_tokens")
POINTERS = {"text", "video", "out", "weight", "bias", "text_scale", "text_shift", "video_scale", "video_shift", "change", "text_gate",
            "video_gate", "query", "key", "weight_q", "bias_q", "weight_k", "bias_k"}
made = {}
for kernel, choices in ((kernels._modulated_kernel, {"AFFINE": True, "BLOCK": 4096}), (kernels._gated_kernel, {"BLOCK": 4096}),
                        (kernels._turned_kernel, {"HEADS": 48, "WIDTH": 64, "ROWS": 16, "NORM": True, "TURN": True})):
    names = list(kernel.arg_names)
    kinds = {name: "constexpr" if name in choices else "*bf16" if name in POINTERS else NUMBERS.get(name, "i32") for name in names}
    even = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in choices and name not in PLAIN}
    source = ASTSource(kernel, signature=kinds, constexprs={(names.index(name),): value for name, value in choices.items()}, attrs=even)
    found = triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32)).asm
    made[kernel.__name__] = [len(found["cubin"]), len(re.findall(r"ld\\.global[\\w.:]*\\.v[48]", found["ptx"]))]
print(json.dumps(made))
'''


@pytest.mark.skipif(NO_TRITON, reason="triton is not installed (torch's builds for processors come without it)")
@pytest.mark.parametrize("capability", ["80", "90"])
def test_triton_kernels_compile_for_gpus(capability: str) -> None:
    """To machine code, at the 5B model's sizes, with loads of 16 bytes; no GPU is needed for that."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])} | {"TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", COMPILED, capability], check=False, cwd=ROOT, env=environment, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    made = json.loads(done.stdout.splitlines()[-1])
    assert len(made) == 3
    assert all(code > 1000 and loads >= 2 for code, loads in made.values()), made


class Counting:
    """A compiler that compiles nothing and counts."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize("kind", ["rope", "sincos"])
def test_blocks_share_one_compilation(kind: str) -> None:
    model = transformer(kind)
    stock = step(model, kind, tables(kind))
    install(model, "native")
    attention.pack_if_equal(model, 40)
    torch._dynamo.reset()
    counting = Counting()
    blocks = CompiledBlocks(model, backend=counting)
    assert torch.equal(step(model, kind, tables(kind)), stock)
    assert torch.equal(step(model, kind, tables(kind)), stock)
    assert (counting.graphs, blocks.problem) == (1, "")
    blocks.undo()
    assert torch.equal(step(model, kind, tables(kind)), stock)
    assert not any("forward" in vars(block) for block in model.transformer_blocks)


def test_more_sizes_than_dynamo_holds_are_compiled_too() -> None:
    torch._dynamo.reset()
    model, counting = transformer("sincos"), Counting()
    blocks, block = CompiledBlocks(model, backend=counting), model.transformer_blocks[0]
    width = block.norm1.norm.normalized_shape[0]
    for tokens in range(2, 13):
        video, text, time = (torch.randn(*size) for size in ((1, tokens, width), (1, 3, width), (1, block.norm1.linear.in_features)))
        given = {"hidden_states": video, "encoder_hidden_states": text, "temb": time}
        with torch.inference_mode():
            for made, expected in zip(block(**given), type(block).forward(block, **given), strict=True):
                assert torch.equal(made, expected)
    assert (counting.graphs, blocks.problem) == (11, "")
    blocks.undo()
    torch._dynamo.reset()


def test_compiled_blocks_are_equal() -> None:
    model = transformer()
    stock = step(model, "rope", tables("rope"))
    torch._dynamo.reset()
    blocks = CompiledBlocks(model, backend="aot_eager")
    assert torch.equal(step(model, "rope", tables("rope")), stock)
    assert blocks.problem == ""


def test_a_failing_compiler_costs_a_note(caplog: pytest.LogCaptureFixture) -> None:
    def fails(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    model = transformer()
    stock = step(model, "rope", tables("rope"))
    torch._dynamo.reset()
    blocks = CompiledBlocks(model, backend=fails)
    assert torch.equal(step(model, "rope", tables("rope")), stock)
    assert "C compiler" in caplog.text and blocks.problem
    assert not any("forward" in vars(block) for block in model.transformer_blocks)
    assert torch.equal(step(model, "rope", tables("rope")), stock)


def test_an_error_of_the_block_itself_is_the_block_s() -> None:
    model = transformer()
    CompiledBlocks(model, backend="eager")
    with pytest.raises(RuntimeError, match=r"must match|size"):
        step(model, "rope", tables("1.5"))  # tables of another clip


@pytest.mark.parametrize("kind", list(TRANSFORMERS))
def test_prepared_on_the_processor_all_bits_are_stock_s(kind: str) -> None:
    model = transformer(kind)
    stock = step(model, kind, tables(kind))
    wants = accelerate.prepare(model, accelerate.STOCK, tables(kind), staged=False, **where(model))
    assert wants == (kind != "sincos")
    assert torch.equal(step(model, kind, complex_tables(kind) if wants else tables(kind)), stock)
    other = transformer(kind)
    wants = accelerate.prepare(other, accelerate.Ways("flex", True, False), tables(kind), staged=True, **where(other))
    assert (step(other, kind, complex_tables(kind) if wants else tables(kind)) - stock).abs().max() <= 1e-5
