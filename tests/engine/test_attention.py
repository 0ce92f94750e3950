"""Every attention kernel this machine has gives what diffusers' processor gives; one it has not is refused with the reason."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor

from app.settings import Settings
from engine.choices import Policy
from engine.errors import InvalidRequest
from engine.hardware import Hardware
from engine.models import attention, fused_qkv, kernels
from engine.models.chunked import use_chunks
from engine.plan import plan
from engine.request import GenerationRequest
from engine.spec import read_spec
from engine.speed import KERNELS, LOSSY, Speed, choose_kernel, compiling_pays, why_not
from tests.engine.tiny import CPU, TRANSFORMERS

H200 = Hardware(device="cuda:0", name="NVIDIA H200", total_bytes=141 * 10**9, free_bytes=140 * 10**9, cores=16, bf16=True,
                ram_bytes=10**12, capability=(9, 0), packages=("triton",))
RTX3090 = replace(H200, name="NVIDIA GeForce RTX 3090", capability=(8, 6))
HERE = [name for name in KERNELS if not why_not(name, CPU, head=16, compute="fp32")]


def transformer(kind: str = "rope", dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=32, num_layers=3,
        sample_width=12, sample_height=8, sample_frames=9, max_text_seq_length=16, **TRANSFORMERS[kind]).eval().to(dtype)


def tables(kind: str) -> Any:
    return None if kind == "sincos" else get_3d_rotary_pos_embed(16, ((0, 0), (4, 6)), (4, 6), 2 if kind == "1.5" else 3)


@torch.inference_mode()
def step(model: Any, kind: str, rotary: Any) -> Tensor:
    generator, dtype = torch.Generator().manual_seed(3), model.dtype
    latents = torch.randn(2, 4 if kind == "1.5" else 3, 4, 8, 12, generator=generator).to(dtype)
    text = torch.randn(2, 16, 32, generator=generator).to(dtype)
    return model(hidden_states=latents, encoder_hidden_states=text, timestep=torch.tensor([500, 30]), image_rotary_emb=rotary,
                 return_dict=False)[0]


def install(model: Any, name: str, *, asked: bool = True) -> str:
    return attention.install(model, name, asked=asked, device=torch.device("cpu"), dtype=model.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", list(TRANSFORMERS))
@pytest.mark.parametrize("name", HERE)
def test_a_kernel_equals_stock(name: str, kind: str, dtype: torch.dtype) -> None:
    model, rotary = transformer(kind, dtype), tables(kind)
    stock = step(model, kind, rotary)
    assert install(model, name, asked=True) == name
    assert {p.name for p in model.attn_processors.values()} == {name}  # type: ignore[attr-defined]
    for table in (rotary,) if rotary is None else (rotary, attention.as_complex(rotary)):
        given = step(model, kind, table)
        if name == "native":
            assert torch.equal(given, stock)
        else:  # roundings of another order of sums; in bf16 two of its steps at the outputs' size
            assert (given - stock).abs().max() <= (1e-5 if dtype == torch.float32 else 2**-7 * stock.abs().max())


def test_the_processor_here_has_these() -> None:
    assert HERE == ["native", "sdpa-math", "sdpa-flash", "flex"]


@pytest.mark.parametrize("name", sorted(set(KERNELS) - set(HERE)))
def test_an_absent_kernel_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"NVIDIA GPUs only.*On this machine there are native, sdpa-math") as caught:
        choose_kernel(name, CPU, head=16, compute="fp32")
    assert (caught.value.field, caught.value.suggestion) == ("attention", "auto")


def test_reasons_on_gpus() -> None:
    for name, hardware, head, compute, reason in [
            ("flash", H200, 64, "bf16", "the package flash_attn is not installed"),
            ("flash3", replace(RTX3090, packages=("flash_attn_interface",)), 64, "bf16", "it needs compute capability 9.x"),
            ("sdpa-cudnn", replace(H200, capability=(7, 5)), 64, "bf16", "it needs compute capability 8.0 or newer"),
            ("sdpa-cudnn", replace(H200, capability=None), 64, "bf16", "the GPU's compute capability is not known"),
            ("sdpa-flash", H200, 64, "fp32", "it multiplies 16-bit numbers"),
            ("sdpa-cudnn", H200, 36, "bf16", "it does not take heads of 36 channels"),
            ("sage", replace(H200, packages=("sageattention",)), 32, "bf16", "it takes heads of 64, 96, 128 channels"),
            ("flex", replace(H200, packages=()), 64, "bf16", "the package triton is not installed"),
            ("sdpa-efficient", H200, 64, "fp32", ""), ("sage", replace(H200, packages=("sageattention",)), 64, "bf16", "")]:
        found = why_not(name, hardware, head=head, compute=compute)
        assert found.startswith(reason) and bool(found) == bool(reason), name


def test_auto_is_the_fastest_exact_one() -> None:
    everything = ("triton", "flash_attn", "flash_attn_interface", "sageattention")
    chosen = {(h.name, len(h.packages)): choose_kernel("auto", h, head=64, compute="bf16")
              for h in (CPU, RTX3090, replace(RTX3090, packages=everything), H200, replace(H200, packages=everything))}
    assert list(chosen.values()) == ["native", "native", "native", "sdpa-cudnn", "flash3"]
    assert not set(chosen.values()) & set(LOSSY)
    with pytest.raises(InvalidRequest, match="the kernels are auto, native"):
        Speed(attention="warp")


def test_compiling_is_for_long_jobs_on_a_gpu() -> None:
    wish, choice = Speed(compile=True), {"residency": "resident", "feed_forward": "whole"}
    assert compiling_pays(wish, H200, work=33.2e15, **choice)
    assert not compiling_pays(wish, H200, work=1e15, **choice)
    assert not compiling_pays(Speed(), H200, work=33.2e15, **choice)
    assert not compiling_pays(wish, CPU, work=33.2e15, **choice)
    assert not compiling_pays(wish, H200, work=33.2e15, residency="streamed", feed_forward="whole")


def test_the_installation_chooses_and_the_plan_says_so(tiny: Callable[..., Path]) -> None:
    request = GenerationRequest(prompt="a fox", model=str(tiny()))
    spec = replace(read_spec(tiny()), heads=2, width=128)
    assert plan(request, spec, CPU).attention == "native"
    made = plan(request, spec, replace(H200, packages=("sageattention",)), speed=Settings(attention="sage").speed)
    assert (made.attention, made.attention_asked, made.quality) == ("sage", True, "fast")
    assert any("8 bits (sage)" in note for note in made.notes)
    with pytest.raises(InvalidRequest, match="changes the picture, and quality is lossless"):
        plan(request, spec, replace(H200, packages=("sageattention",)), Policy(quality="lossless"), Speed(attention="sage"))
    with pytest.raises(InvalidRequest, match="sageattention is not installed"):
        plan(request, spec, H200, speed=Speed(attention="sage"))
    with pytest.raises(InvalidRequest, match=r"'warp'.*the kernels are auto.*SPROCKET_ATTENTION"):
        Settings(attention="warp")


@pytest.fixture
def sage(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module where SageAttention's would be; `sage.sageattn` is what the test makes it."""
    module: Any = types.ModuleType("sageattention")
    monkeypatch.setitem(sys.modules, "sageattention", module)
    kernels.kernel.cache_clear()
    yield module
    kernels.kernel.cache_clear()


def eight_bits(query: Tensor, key: Tensor, value: Tensor, tensor_layout: str, is_causal: bool) -> Tensor:
    """What SageAttention computes, slowly: the product of queries and keys (less their mean) in INT8."""
    assert (tensor_layout, is_causal) == ("HND", False)
    whole = []
    for x in (query, key - key.mean(dim=2, keepdim=True)):
        scale = x.abs().amax(dim=3, keepdim=True) / 127
        whole.append((x / scale).round() * scale)
    return (whole[0] @ whole[1].transpose(2, 3) / query.shape[3] ** 0.5).softmax(dim=3) @ value


def test_eight_bit_attention_passes_its_own_limit_and_no_other(sage: Any) -> None:
    sage.sageattn = eight_bits
    model = transformer()
    assert install(model, "sage", asked=True) == "sage"
    stock = step(transformer(), "rope", tables("rope"))
    given = step(model, "rope", tables("rope"))
    assert 0 < (given - stock).abs().max() <= 0.1 * stock.abs().max()
    trial = {"heads": 2, "width": 16, "dtype": torch.float32, "device": torch.device("cpu")}
    assert kernels.trial(kernels.kernel("sage"), lossy=True, **trial) == ""
    assert "is off by" in kernels.trial(kernels.kernel("sage"), lossy=False, **trial)


@pytest.mark.parametrize(("broken", "words"), [
    (lambda q, k, v, **_: torch.full_like(q, torch.nan), "not finite"),
    (lambda q, k, v, **_: torch.zeros_like(q), "off by 100"),
    (lambda q, k, v, **_: q[:, :1], "gave shape"),
], ids=["nan", "black", "shape"])
def test_a_broken_kernel_never_makes_a_clip(sage: Any, broken: Any, words: str) -> None:
    sage.sageattn = broken
    model = transformer()
    with pytest.raises(InvalidRequest, match=rf"'sage', which fails on this machine: .*{words}"):
        install(model, "sage", asked=True)
    assert install(model, "sage", asked=False) == "native"
    assert torch.equal(step(model, "rope", tables("rope")), step(transformer(), "rope", tables("rope")))


def test_a_package_that_cannot_be_imported_is_a_reason() -> None:
    with pytest.raises(InvalidRequest, match="cannot be imported"):
        install(transformer(), "flash3", asked=True)


@pytest.mark.parametrize("name", ["flex", "sdpa-math"])
def test_chunked_blocks_use_the_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformer()
    install(model, name, asked=True)
    use_chunks(model)
    calls = []
    for processor in model.attn_processors.values():
        right = processor.attend
        monkeypatch.setattr(processor, "attend", lambda *qkv, right=right: (calls.append(1), right(*qkv))[1])
        break  # one processor for all blocks
    given = step(model, "rope", tables("rope"))
    assert len(calls) == 3 * 2  # blocks x rows
    assert (given - step(transformer(), "rope", tables("rope"))).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", list(TRANSFORMERS))
def test_one_product_for_queries_keys_and_values(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rotary = transformer(kind), tables(kind)
    stock, before = step(model, kind, rotary), model.state_dict()
    install(model, "native", asked=True)
    drawn, draw = [], torch.randn
    with monkeypatch.context() as patched:
        patched.setattr(torch, "randn", lambda *size, **how: drawn.append(size) or draw(*size, **how))
        assert attention.pack_if_equal(model, 40) == 3
    assert drawn == [(1, 40, model.transformer_blocks[0].attn1.to_q.weight.shape[1])]  # once for all blocks
    assert all(fused_qkv.packed(block.attn1) for block in model.transformer_blocks)
    after = model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(step(model, kind, rotary), stock)


def test_a_packed_layer_steps_back_for_whatever_stands_on_it() -> None:
    model, kind = transformer(), "rope"
    install(model, "native", asked=True)
    stock = step(model, kind, tables(kind))
    first, second, third = (block.attn1 for block in model.transformer_blocks)
    for attn in (first, second, third):
        assert fused_qkv.pack(attn) is not None

    class Beside(torch.nn.Module):  # as a LoRA's side path
        def __init__(self, base: torch.nn.Linear) -> None:
            super().__init__()
            self.base = base

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + 1.0

    first.to_k = Beside(first.to_k)
    assert not fused_qkv.packed(first) and fused_qkv.packed(second)
    assert not torch.equal(step(model, kind, tables(kind)), stock)
    first.to_k = first.to_k.base
    assert fused_qkv.packed(first)
    handle = second.to_v.register_forward_hook(lambda module, args, out: out * 2)
    assert not fused_qkv.packed(second)
    handle.remove()
    third.to_q.weight.data = third.to_q.weight.data.clone()  # moved by itself, as offloading does
    assert not fused_qkv.packed(third)
    assert torch.equal(step(model, kind, tables(kind)), stock)
    third.to_q.weight.data.mul_(2)
    assert not torch.equal(step(model, kind, tables(kind)), stock)  # the moved weight is the one that counts


def test_eight_bit_weights_stay_three_layers() -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = transformer()
    attentions = [block.attn1 for block in model.transformer_blocks]
    assert all(fused_qkv.pack(attn) for attn in attentions)
    quantize_(model, Int8WeightOnlyConfig())
    assert not any(fused_qkv.packed(attn) or fused_qkv.pack(attn) for attn in attentions)
    install(model, "native", asked=True)
    assert torch.isfinite(step(model, "rope", tables("rope"))).all()


def test_a_product_with_other_bits_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model, kind = transformer(), "rope"
    install(model, "native")
    stock, second = step(model, kind, tables(kind)), model.transformer_blocks[1].attn1
    places = {name: weight.data_ptr() for name, weight in second.named_parameters()}
    right = attention.project

    def wrong(attn: Any, tokens: Tensor) -> Any:
        made = right(attn, tokens)
        return tuple(part + 1e-6 for part in made) if attn is second and fused_qkv.packed(attn) else made

    monkeypatch.setattr(attention, "project", wrong)
    assert attention.pack_if_equal(model, 40) == 2
    monkeypatch.undo()
    assert [fused_qkv.packed(block.attn1) for block in model.transformer_blocks] == [True, False, True]
    assert {name: weight.data_ptr() for name, weight in second.named_parameters()} == places
    assert torch.equal(step(model, kind, tables(kind)), stock)


def test_other_bits_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rotary = transformer(), tables("rope")
    stock = step(model, "rope", rotary)
    right = attention.turn
    monkeypatch.setattr(attention, "turn", lambda vectors, table: (right(vectors, table), vectors.mul_(1.0001))[0])
    assert attention.speed_up(model, rotary) is False
    monkeypatch.undo()
    assert torch.equal(step(model, "rope", rotary), stock)
    assert attention.speed_up(model, rotary) is True
