"""Weights in 8 bits: how far off they are, and that where they wait makes no difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.memory import Home, Placement, everywhere
from engine.memory.weights import layout, moved_bytes, stored_bytes
from engine.models.accelerate import Ways
from engine.models.cogvideox import CogVideoX
from engine.models.eight_bit import CODES, EightBitLinear, in_eight_bits
from engine.spec import ModelSpec, read_spec
from tests.engine.tiny import save_tiny

WIDTH = {"int8": 0.004, "fp8": 0.03, "int8-dynamic": 0.03, "fp8-dynamic": 0.05}
"""Relative error of a prediction that `docs/planner.md` promises."""
HERE = everywhere("fp32", "resident", (64, 96), tiled=False)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return read_spec(save_tiny(tmp_path_factory.mktemp("eight") / "tiny-rope", layers=(5, 4)))


def both(precision: str, residency: str, source: str = "ram") -> Placement:
    return replace(HERE, text_encoder=Home(precision, residency, source), transformer=Home(precision, residency, source))


def made(spec: ModelSpec, placement: Placement, dtype: str = "fp32") -> tuple[Tensor, Tensor, int]:
    """Text, a prediction, and the bytes that moved for it."""
    model = CogVideoX(spec, dtype=dtype, device="cpu", placement=placement)
    text = model.encode("a fox", "a dog")
    latents = torch.randn(1, 3, 4, 8, 12, generator=torch.Generator().manual_seed(1)).to(model.dtype)
    velocity = model.predict(latents, torch.tensor(500), text)
    stream = model.components["transformer"].stream
    moved = 0 if stream is None else stream.moved
    model.close()
    return text, velocity, moved


@pytest.mark.parametrize(("home", "compiled"), [(Home("int8", "resident"), True), (Home("int8-dynamic", "resident"), True),
                                                (Home("fp32", "resident"), True), (Home("int8", "staged", "ram"), False)], ids=str)
def test_what_stays_on_the_device_is_compiled_in_any_precision(home: Home, compiled: bool, spec: ModelSpec) -> None:
    model = CogVideoX(spec, dtype="fp32", device="cpu", placement=replace(HERE, transformer=home), ways=Ways("sdpa-math", True, True))
    blocks = [vars(block).get("forward") for block in model.transformer.transformer_blocks]
    assert [type(block).__name__ == "_Guarded" for block in blocks] == [compiled] * 5
    assert model._complex_rotary != compiled  # where nothing is compiled, turning in one pass is not given up for it
    model.close()


def off(given: Tensor, wanted: Tensor) -> float:
    return float((given.float() - wanted.float()).norm() / wanted.float().norm())


@pytest.mark.parametrize("precision", list(CODES))
def test_how_far_off(precision: str, spec: ModelSpec) -> None:
    text, velocity, _ = made(spec, HERE)
    eight_text, eight, _ = made(spec, both(precision, "resident"))
    transformer_only = made(spec, replace(HERE, transformer=Home(precision, "resident")))
    assert 0 < off(eight_text, text) <= (0.02 if "int8" in precision else 0.07)  # the transformer makes little of it
    assert torch.equal(transformer_only[0], text)
    assert 0 < off(transformer_only[1], velocity) <= WIDTH[precision]
    assert 0 < off(eight, velocity) <= WIDTH[precision]


@pytest.mark.parametrize("precision", list(CODES))
def test_streamed_and_staged_are_the_same_bits_and_less_moves(precision: str, spec: ModelSpec) -> None:
    text, velocity, _ = made(spec, both(precision, "resident"))
    for residency, source in (("streamed", "ram"), ("staged", "ram"), ("staged", "disk")):
        given = made(spec, both(precision, residency, source))
        assert torch.equal(given[0], text)
        assert torch.equal(given[1], velocity)
        if residency == "streamed":
            found = layout(spec, "transformer")
            assert given[2] == moved_bytes(found, Home(precision, "streamed"), "fp32")
            assert given[2] < 0.6 * moved_bytes(found, Home("fp32", "streamed"), "fp32")


@pytest.mark.parametrize("precision", list(CODES))
def test_stored_bytes_are_the_planners(precision: str, spec: ModelSpec) -> None:
    home = Home(precision, "resident")
    model = CogVideoX(spec, dtype="bf16", device="cpu", placement=replace(
        everywhere("bf16", "resident", (64, 96), tiled=False), text_encoder=home, transformer=home))
    for part in ("text_encoder", "transformer"):
        held = sum(weight.nbytes for weight in model.components[part].module.parameters())
        assert held == stored_bytes(layout(spec, part), home, "bf16")
        assert any(isinstance(layer, EightBitLinear) for layer in model.components[part].module.modules())
    model.close()


def test_int8_is_torchaos() -> None:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    torch.manual_seed(0)
    linear = nn.Linear(256, 64)
    ours = EightBitLinear(linear, torch.int8)
    codes, scale = in_eight_bits(linear.weight.detach(), torch.int8, torch.float32)
    ours.codes, ours.scale = (nn.Parameter(value, requires_grad=False) for value in (codes, scale))
    x = torch.randn(7, 256)
    given = ours(x).detach()
    exact = linear(x).detach()
    theirs = nn.Sequential(linear)
    quantize_(theirs, Int8WeightOnlyConfig())
    assert off(given, exact) <= 1.1 * off(theirs(x).detach(), exact) <= 0.01


@pytest.mark.parametrize(("precision", "bound"), [("int8-dynamic", 0.015), ("fp8-dynamic", 0.045)])
@pytest.mark.parametrize("tokens", [3, 17, 2048, 2050])
def test_products_in_eight_bits(precision: str, bound: float, tokens: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 32).requires_grad_(False)
    ours = EightBitLinear(linear, CODES[precision], dynamic=True)
    ours.codes, ours.scale = (nn.Parameter(value, requires_grad=False)
                              for value in in_eight_bits(linear.weight, CODES[precision], torch.float32))
    x = torch.randn(1, tokens, 64)
    assert ours(x).shape == (1, tokens, 32)
    assert 0 < off(ours(x), linear(x)) <= bound
    # Rows do not know of each other: one giant token costs the others nothing.
    x[:, 0] *= 1e4
    assert off(ours(x)[:, 1:], linear(x)[:, 1:]) <= bound


def test_a_scale_keeps_fp8_out_of_its_subnormal_numbers() -> None:
    """Trained weights of about 0.02 lie there; a plain cast loses several times as much."""
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) * 0.004
    codes, scale = in_eight_bits(weight, torch.float8_e4m3fn, torch.bfloat16)
    ours = off(codes.float() * scale.float()[:, None], weight)
    assert ours <= 0.03
    assert off(weight.to(torch.float8_e4m3fn).float(), weight) > 2 * ours


@pytest.mark.parametrize("precision", list(CODES))
def test_rows_of_zeros_and_giants(precision: str) -> None:
    weight = torch.stack([torch.zeros(8), torch.full((8,), 1e30), torch.linspace(-1, 1, 8)])
    codes, scale = in_eight_bits(weight, CODES[precision], torch.float32)
    back = codes.float() * scale[:, None]
    assert torch.equal(back[0], weight[0])
    assert off(back[1], weight[1]) < 1e-5
    assert off(back[2], weight[2]) < 0.05


@pytest.mark.parametrize("parts", [{"transformer": "fp16"}, {"vae": "fp16"}, {"transformer": "fp16", "vae": "fp16"}])
def test_half_precision_where_it_is_asked_for(parts: dict[str, str], spec: ModelSpec, tmp_path: Path) -> None:
    model = CogVideoX(spec, dtype="fp32", device="cpu", placement=replace(
        HERE, **{part: Home(precision, "resident") for part, precision in parts.items()}))  # type: ignore[arg-type]
    exact = CogVideoX(spec, dtype="fp32", device="cpu")
    latents = torch.randn(1, 3, 4, 8, 12, generator=torch.Generator().manual_seed(1))
    results: list[Callable[[CogVideoX], Tensor]] = [
        lambda one: one.predict(latents, torch.tensor(500), one.encode("a fox", "")),
        lambda one: torch.cat(list(one.decode(latents, (64, 96)))).float()]
    for part, result in zip(("transformer", "vae"), results, strict=True):
        given, wanted = result(model), result(exact)
        assert given.dtype == torch.float32
        error = off(given, wanted)
        assert (0 < error <= 0.005) if part in parts else error == 0
    model.close()
    exact.close()
