"""The memory formulas against live storages of the real modules, counted on the meta device at true sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bench.meta_memory import LIMIT, Meter, decoder_peak, encoder_peak, placed, text_peak, transformer_peak
from engine.facts import published
from engine.memory import Home, Shape, everywhere, forecast
from engine.memory.decoder import decode_bytes, decode_ram_bytes
from engine.memory.encoder import encode_frames_bytes
from engine.memory.placement import Placement
from engine.memory.text import encode_bytes
from engine.memory.transformer import sample_bytes
from engine.memory.weights import moved_bytes, stored_bytes, working_bytes
from engine.models.layout import Layout

GIB = 2**30
SHAPES = {"CogVideoX-2b": Shape(49, 480, 720, True), "CogVideoX-5b": Shape(49, 480, 720, True),
          "CogVideoX1.5-5B": Shape(81, 768, 1360, True)}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("name", list(SHAPES))
def test_a_transformer_step(name: str, chunked: bool) -> None:
    spec, shape = published(name), SHAPES[name]
    counted = transformer_peak(spec, shape, rows=2, chunked=chunked, layers=2)
    said = sample_bytes(spec, shape, "bf16", placed(shape, feed_forward="chunked" if chunked else "whole"))
    assert said == pytest.approx(counted, rel=LIMIT)
    if name == "CogVideoX-5b" and chunked:
        assert counted <= 1.0 * GIB


def test_two_passes_halve_it() -> None:
    spec, shape = published("CogVideoX-5b"), SHAPES["CogVideoX-5b"]
    counted = transformer_peak(spec, shape, rows=1, chunked=False, own_attention=True, layers=2)
    assert sample_bytes(spec, shape, "bf16", placed(shape, passes=2)) == pytest.approx(counted, rel=LIMIT)
    assert sample_bytes(spec, replace(shape, guided=False), "bf16", placed(shape)) == pytest.approx(counted, rel=LIMIT)


@pytest.mark.parametrize("decoder", ["stock", "lean"])
@pytest.mark.parametrize("name", ["CogVideoX-5b", "CogVideoX1.5-5B"])
def test_decoding_whole(name: str, decoder: str) -> None:
    from engine.models.vae_decode import decode_chunks

    spec, shape = published(name), replace(SHAPES[name], frames=17)  # two chunks are as high as seven
    counted = decoder_peak(spec, shape, lambda vae, z: decode_chunks(vae, z, (shape.height, shape.width)), lean=decoder == "lean")
    assert decode_bytes(spec, shape, "bf16", placed(shape, decoder=decoder)) == pytest.approx(counted, rel=LIMIT)


def test_decoding_in_tiles() -> None:
    from engine.models.vae_decode import decode_chunks

    spec, shape, tile = published("CogVideoX-5b"), Shape(17, 480, 720, True), (240, 360)
    counted = decoder_peak(spec, shape, lambda vae, z: decode_chunks(vae, z, tile), lean=True)
    assert decode_bytes(spec, shape, "bf16", placed(shape, decoder="lean", decode="tiled", tile=tile)) == pytest.approx(counted, rel=LIMIT)


@pytest.mark.parametrize(("name", "frames", "device"), [("CogVideoX-5b", 9, "cuda:0"), ("CogVideoX-5b", 25, "cuda:0"),
                                                        ("CogVideoX-5b", 25, "cpu"), ("CogVideoX1.5-5B", 25, "cuda:0")])
def test_decoding_in_bands(name: str, frames: int, device: str) -> None:
    from engine.models.band_decode import decode_banded
    from engine.models.bands import host_room

    spec, shape = published(name), replace(SHAPES[name], frames=frames)  # three chunks: the first, one like all others, the last
    counted = decoder_peak(spec, shape, lambda vae, z, room=host_room: decode_banded(vae, z, room=room), beside=device == "cuda:0")
    assert decode_bytes(spec, shape, "bf16", placed(shape, decode="banded"), device) == pytest.approx(counted, rel=LIMIT)
    if name == "CogVideoX-5b" and device == "cuda:0":
        assert counted <= 3.0 * GIB


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
def test_decoding_tile_by_tile(device: str) -> None:
    from engine.models.tile_decode import decode_by_tile

    spec, shape, tile = published("CogVideoX-5b"), Shape(25, 480, 360, True), (240, 360)
    counted = decoder_peak(spec, shape, lambda vae, z, *room: decode_by_tile(vae, z, tile, **({"room": room[0]} if room else {})),
                           beside=device == "cuda:0")
    assert decode_bytes(spec, shape, "bf16", placed(shape, decode="by-tile", tile=tile), device) == pytest.approx(counted, rel=LIMIT)
    if device == "cuda:0":
        assert counted <= 1.0 * GIB


def test_what_rests_beside_a_gpu_is_memory_of_the_computer() -> None:
    spec, shape = published("CogVideoX-5b"), SHAPES["CogVideoX-5b"]
    whole, banded = (forecast(spec, shape, "bf16", placed(shape, decode=how), "cuda:0") for how in ("whole", "banded"))
    assert banded.ram_bytes - whole.ram_bytes == decode_ram_bytes(spec, shape, "bf16", placed(shape, decode="banded"), "cuda:0") > 2.6 * GIB
    assert decode_ram_bytes(spec, shape, "bf16", placed(shape, decode="banded"), "cpu") == 0


def test_page_locked_memory_is_counted_as_torch_hands_it_out() -> None:
    from engine.models.band_decode import decode_banded

    spec, shape, taken = published("CogVideoX-5b"), SHAPES["CogVideoX-5b"], []

    def noted(like: torch.Tensor) -> torch.Tensor:
        taken.append(1 << (like.nbytes - 1).bit_length())
        return torch.empty_like(like)

    decoder_peak(spec, shape, lambda vae, z: decode_banded(vae, z, room=noted))
    said = decode_ram_bytes(spec, shape, "bf16", placed(shape, decode="banded"), "cuda:0")
    assert said == pytest.approx(sum(taken), rel=LIMIT) and said > 1.2 * 2.9e9


@pytest.mark.parametrize(("name", "given", "how"), [("CogVideoX-5b-I2V", 1, "whole"), ("CogVideoX-5b", 17, "whole"),
                                                    ("CogVideoX-5b", 17, "tiled"), ("CogVideoX-5b", 17, "banded"),
                                                    ("CogVideoX-5b-I2V", 1, "by-tile")])
def test_encoding_what_a_clip_starts_from(name: str, given: int, how: str) -> None:
    from engine.models.band_encode import encode_banded
    from engine.models.vae_encode import encode_chunks

    spec, shape, tile = published(name), Shape(49, 480, 720, True, given), (240, 360) if how in ("tiled", "by-tile") else (480, 720)
    banded = how in ("banded", "by-tile")
    counted = encoder_peak(spec, shape, (lambda vae, frames, room: encode_banded(vae, frames, room=room)) if banded else
                           (lambda vae, frames: encode_chunks(vae, frames, tile)), beside=banded)
    assert encode_frames_bytes(spec, shape, "bf16", placed(shape, decode=how, tile=tile)) == pytest.approx(counted, rel=LIMIT)


def test_the_forecast_has_room_for_what_a_clip_starts_from() -> None:
    spec, shape = published("CogVideoX-5b"), SHAPES["CogVideoX-5b"]
    way = everywhere("bf16", "staged", (480, 720), tiled=False, decoder="lean")
    words, video = (forecast(spec, replace(shape, given=given), "bf16", way, "cuda:0") for given in (0, 49))
    assert video.ram_bytes - words.ram_bytes == 49 * 480 * 720 * 3
    assert video.stages["encode"] == words.stages["encode"]  # staged, T5's weights are more than the VAE's memory
    small = replace(way, text_encoder=Home("bf16", "streamed"))
    needs = [forecast(spec, replace(shape, given=given), "bf16", small, "cuda:0").stages["encode"] for given in (0, 1, 49)]
    assert needs[0] < needs[1] < needs[2]
    assert needs[2] == encode_frames_bytes(spec, replace(shape, given=49), "bf16", small) + stored_bytes(
        spec.layout["vae"], small.vae, "bf16")


def test_the_text_encoder() -> None:
    spec = published("CogVideoX-5b")
    assert encode_bytes(spec, "bf16") == pytest.approx(text_peak(spec), rel=LIMIT)


def test_a_meter_forgets_what_died() -> None:
    import torch

    with Meter() as meter:
        kept = torch.empty(100, device="meta")
        del_me = kept + 1
        del del_me
        view = kept[10:]
    assert (meter.now, meter.peak) == (400, 800)
    assert view.shape == (90,)


def test_weights_by_precision_and_residency() -> None:
    found = Layout(numbers=1000, matrices=800, rows=40, largest=200, blocks=4, block=200, block_matrices=160, block_rows=8)
    bf16, int8, fp8 = (Home(precision, "resident") for precision in ("bf16", "int8", "fp8"))
    assert stored_bytes(found, bf16, "bf16") == 2000
    assert stored_bytes(found, fp8, "bf16") == 200 * 2 + 800 + 40 * 2
    assert stored_bytes(found, int8, "bf16") == 200 * 2 + 800 + 40 * 2
    assert working_bytes(found, fp8, "bf16") == stored_bytes(found, fp8, "bf16") + 400
    streamed = Home("bf16", "streamed")
    assert working_bytes(found, streamed, "bf16") == 2 * (1000 - 4 * 200) + 2 * 2 * 200
    assert moved_bytes(found, streamed, "bf16") == 4 * 200 * 2
    assert moved_bytes(found, bf16, "bf16") == 0


def test_streaming_moves_the_blocks_once_for_both_halves_of_guidance() -> None:
    spec, shape = published("CogVideoX-5b"), SHAPES["CogVideoX-5b"]
    away, here = Home("bf16", "streamed"), Home("bf16", "resident")
    way = Placement(away, away, here, 1, "chunked", "by-tile", (240, 360), "lean")
    once = forecast(spec, shape, "bf16", way, "cuda:0")
    blocks = spec.layout["transformer"].blocks * spec.layout["transformer"].block * 2
    assert once.moved_bytes == blocks
    assert forecast(spec, shape, "bf16", replace(way, passes=2), "cuda:0").moved_bytes == 2 * blocks
    assert once.device_bytes < 4 * GIB
    assert once.ram_bytes > 18 * GIB
    from_disk = replace(way, text_encoder=replace(away, source="disk"), transformer=replace(away, source="disk"))
    assert forecast(spec, shape, "bf16", from_disk, "cuda:0").ram_bytes < 2 * GIB
    whole = forecast(spec, shape, "bf16", everywhere("bf16", "resident", (480, 720), tiled=False), "cuda:0")
    assert whole.stages["sample"] == pytest.approx(19.64 * GIB + 2.65 * GIB, rel=0.01)
