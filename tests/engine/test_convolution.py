"""One clip's convolutions in fp32 run in oneDNN: torch's results but for rounding, and torch's own wherever oneDNN cannot."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from engine.models.band_decode import decode_banded
from engine.models.band_encode import encode_banded
from engine.models.cache import ModelCache
from engine.models.convolution import conv3d, use_onednn
from engine.models.vae_decode import decode_chunks
from engine.models.vae_encode import encode_chunks
from engine.plan import Plan

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
CLOSE = 1e-5
TORCHS = ("conv3d", "convolution", "slow_conv3d", "slow_conv3d_forward")
WHOLE = (999, 999)


class Asked(TorchDispatchMode):
    """Shapes of the kernels of every 3D convolution, by what was asked to do it."""

    def __init__(self) -> None:
        super().__init__()
        self.windows: dict[str, list[tuple[int, ...]]] = {name: [] for name in ("mkldnn_convolution", *TORCHS)}

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = op.overloadpacket.__name__
        if name in self.windows and args[1].dim() == 5:
            self.windows[name].append(tuple(args[1].shape[2:]))
        return op(*args, **(kwargs or {}))


def left_to_torch(asked: Asked) -> list[tuple[int, ...]]:
    """Windows of more than a pixel that torch chose the way of."""
    return [window for name in TORCHS for window in asked.windows[name] if max(window) > 1]


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)


def published(channels: tuple[int, ...] = (8, 8, 16, 16)) -> Any:
    """An autoencoder as published, narrow, all of whose layers torch would keep from oneDNN."""
    torch.manual_seed(0)
    return AutoencoderKLCogVideoX(block_out_channels=channels, latent_channels=4, layers_per_block=1, norm_num_groups=2).eval()


@torch.inference_mode()
def test_an_autoencoder_through_onednn_is_the_stock_one_but_for_rounding() -> None:
    stock, ours = published(), published()
    use_onednn(ours)
    video, latents = frames(17), torch.randn(1, 4, 5, 6, 8)
    ways: dict[str, Callable[[Any], Tensor]] = {
        "encoded": lambda vae: torch.cat([part for _, part in encode_chunks(vae, video, WHOLE)], dim=2),
        "decoded": lambda vae: torch.cat(list(decode_chunks(vae, latents, WHOLE)), dim=2),
        "by diffusers": lambda vae: vae.decode(latents).sample,
        "encoded, banded": lambda vae: torch.cat([part for _, part in encode_banded(vae, video, limit=20_000)], dim=2),
        "decoded, banded": lambda vae: torch.cat(list(decode_banded(vae, latents, limit=20_000)), dim=2),
    }
    for name, way in ways.items():
        with Asked() as torchs:
            expected = way(stock)
        with Asked() as asked:
            given = way(ours)
        assert given.shape == expected.shape
        assert (given - expected).abs().max() <= CLOSE * max(1.0, float(expected.abs().max()))
        assert len(asked.windows["mkldnn_convolution"]) > 20 and not left_to_torch(asked)
        assert bool(left_to_torch(torchs)) == ("banded" not in name)  # bands are ours in any model


def test_a_loaded_model_never_takes_the_slow_way(tiny_plan: Callable[..., Plan], cache_of: Callable[[Plan], ModelCache]) -> None:
    job = tiny_plan()
    model = cache_of(job).get(job)
    list(model.decode(torch.randn(1, 1, 4, 2, 2), WHOLE))  # tries its leaner decoder
    with torch.profiler.profile(record_shapes=True) as seen:
        list(model.encode_frames(frames(9), WHOLE))
        list(model.decode(torch.randn(1, 5, 4, 4, 6), WHOLE))
    ways = {name: [event.input_shapes[1][2:] for event in seen.events() if event.name == f"aten::{name}"]
            for name in ("mkldnn_convolution", "slow_conv3d_forward")}
    assert [3, 3, 3] in ways["mkldnn_convolution"]
    assert all(window == [1, 1, 1] for window in ways["slow_conv3d_forward"])


def test_gradients_are_torchs() -> None:
    given, weight, bias = torch.randn(1, 3, 4, 6, 5), torch.randn(4, 3, 3, 3, 3), torch.randn(4)
    found = []
    for way in (conv3d, F.conv3d):
        leaves = [one.clone().requires_grad_() for one in (given, weight, bias)]
        (way(*leaves, padding=(0, 1, 1)) ** 2).sum().backward()
        found.append([one.grad for one in leaves])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("fields", [{}, {"stride": (2, 2, 2)}, {"padding": (1, 1, 1)}, {"dilation": (1, 2, 2)}, {"groups": 2}])
def test_every_setting_and_stride_of_memory(fields: dict[str, Any]) -> None:
    weight, bias = torch.randn(4, 4 // fields.get("groups", 1), 3, 3, 3), torch.randn(4)
    plain = torch.randn(1, 4, 5, 9, 8)
    for given in (plain, plain.to(memory_format=torch.channels_last_3d), plain.transpose(3, 4), plain[:, :, ::2].flip(2)):
        for offset in (bias, None):
            with Asked() as asked:
                made = conv3d(given.repeat(1, 1, 2, 1, 1) if given.shape[2] < 3 else given, weight, offset, **fields)
            assert asked.windows["mkldnn_convolution"]
            torch.testing.assert_close(made, F.conv3d(given, weight, offset, **fields), rtol=1e-5, atol=1e-5)


def test_what_onednn_cannot_take_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quantised(Tensor):
        """A tensor with a class of its own."""

    given, weight = torch.randn(1, 3, 4, 6, 5), torch.randn(4, 3, 3, 3, 3)
    pairs = [(given.bfloat16(), weight.bfloat16()), (given.double(), weight.double()), (given.to("meta"), weight.to("meta")),
             (given, weight.as_subclass(Quantised)), (given[0], weight), (given[:0], weight), (given, torch.randn(4, 3, 1, 1, 1))]
    for one, by in pairs:
        with Asked() as asked:
            made = conv3d(one, by, None)
        assert not asked.windows["mkldnn_convolution"]
        expected = F.conv3d(one, by)
        assert made.shape == expected.shape and made.dtype == expected.dtype
        assert made.is_meta or torch.equal(made, expected)
    with Asked() as asked, torch.autocast("cpu", torch.bfloat16):
        assert conv3d(given, weight, None).dtype == torch.bfloat16
    with FakeTensorMode() as fake, asked:
        assert conv3d(fake.from_tensor(given), fake.from_tensor(weight), None).shape == (1, 4, 2, 4, 3)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with asked:
        conv3d(given, weight, None)
    assert not asked.windows["mkldnn_convolution"]


def test_only_the_model_that_is_asked_is_changed_and_a_copy_stands_alone() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain, self.wrapped = nn.Conv3d(2, 2, 3), nn.Conv3d(2, 2, 3, padding=1, padding_mode="replicate")

    net, other = Net(), Net()
    use_onednn(net)
    twin = copy.deepcopy(net)
    twin.plain.weight.data.zero_()
    given = torch.randn(1, 2, 4, 4, 4)
    assert torch.equal(twin.plain(given), twin.plain.bias.detach().view(1, 2, 1, 1, 1).expand(1, 2, 2, 2, 2))
    for module, window in ((net.plain, True), (net.wrapped, False), (other.plain, False)):
        with Asked() as asked:
            module(given)
        assert bool(asked.windows["mkldnn_convolution"]) == window
    assert list(net.state_dict()) == list(other.state_dict())
