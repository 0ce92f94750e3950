"""The two published conventions, on tiny random weights of exactly those layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engine.interpolate.community import first_and_last, known_run, masked_video, resized_mask, with_runs

CHANNELS, SCALE = 16, 0.7


def transformer(channels: int) -> Any:
    from diffusers import CogVideoXTransformer3DModel

    torch.manual_seed(0)
    return CogVideoXTransformer3DModel(num_attention_heads=2, attention_head_dim=16, in_channels=channels, out_channels=CHANNELS,
                                       time_embed_dim=8, text_embed_dim=32, num_layers=1, sample_width=12, sample_height=8,
                                       sample_frames=17, max_text_seq_length=16).eval()


@pytest.fixture(scope="module")
def vae() -> Any:
    from diffusers import AutoencoderKLCogVideoX

    torch.manual_seed(1)
    return AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 8), latent_channels=CHANNELS, layers_per_block=1, norm_num_groups=2,
                                  sample_height=64, sample_width=96).eval()


def predicted(model: Any, beside: Tensor) -> Tensor:
    noise = torch.randn(1, beside.shape[1], CHANNELS, 8, 12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model(hidden_states=torch.cat([noise, beside], dim=2), encoder_hidden_states=torch.zeros(1, 16, 32),
                     timestep=torch.tensor([400]), return_dict=False)[0]


def test_first_and_last_in_32_channels() -> None:
    first, last = torch.full((1, CHANNELS, 8, 12), 1.0), torch.full((1, CHANNELS, 8, 12), 2.0)
    beside = first_and_last(first, last, 5)
    assert torch.equal(beside[:, 0], first) and torch.equal(beside[:, 4], last) and not beside[:, 1:4].any()
    model = transformer(2 * CHANNELS)
    assert predicted(model, beside).shape == (1, 5, CHANNELS, 8, 12)
    assert not torch.equal(predicted(model, beside), predicted(model, first_and_last(first, first, 5)))


@torch.no_grad()
def test_masked_video_in_33_channels(vae: Any) -> None:
    images = {0: torch.zeros(3, 64, 96), 16: torch.ones(3, 64, 96)}
    encode = lambda video: vae.encode(video).latent_dist.mode()  # noqa: E731
    beside = masked_video(images, 17, encode, SCALE)
    assert beside.shape == (1, 5, 1 + CHANNELS, 8, 12)
    assert beside[0, :, 0, 0, 0].tolist() == pytest.approx([SCALE, 0, 0, 0, SCALE])  # both ends are known to the model
    assert predicted(transformer(1 + 2 * CHANNELS), beside).isfinite().all()
    video = torch.full((1, 3, 17, 64, 96), -1.0)
    video[0, :, 0], video[0, :, 13:] = 0.0, 1.0
    assert torch.allclose(beside[0, :, 1:], encode(video)[0].transpose(0, 1) * SCALE)


def test_the_resized_mask_forgets_a_single_last_frame() -> None:
    value = lambda known: resized_mask([index in known for index in range(17)], (1, 1))[:, 0, 0, 0].tolist()  # noqa: E731
    assert value({0, 16}) == [1, 0, 0, 0, 0]
    assert value({0, 15, 16}) == [1, 0, 0, 0, 0.5]
    assert value({0, 14, 15, 16}) == [1, 0, 0, 0, 1]
    assert value(with_runs({0: torch.zeros(1), 16: torch.zeros(1)}, 17)) == [1, 0, 0, 0, 1]


def test_a_clip_of_one_frame_has_one_bit() -> None:
    assert resized_mask([True], (2, 3)).tolist() == [[[[1.0] * 3] * 2]]
    assert resized_mask([False], (1, 1)).tolist() == [[[[0.0]]]]


def test_a_repeat_does_not_replace_a_neighbour() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    known = with_runs({7: one, 8: two}, 17)
    assert known[8] is two and known[7] is one and set(known) == set(known_run(8, 17)) == {5, 6, 7, 8}
