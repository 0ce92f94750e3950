"""Live bytes of diffusers' and our own modules at true sizes, counted on torch's meta device, beside the formulas.

    python -m bench.meta_memory [NAME ...]      all cases, or those whose name contains one of the words

No weight and no GPU: a meta tensor has a shape and no data. `Meter` sees every operation and counts the storages that are
alive; what a kernel takes inside itself (cuDNN's workspace) it cannot see. Attention counts as a flash kernel does: its
output and one float32 per query. Exit status 1 where a formula of `engine.memory` is off by more than 10 % or a target is missed.
"""

from __future__ import annotations

import dataclasses
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.facts import configs, published
from engine.memory import Placement, Shape, everywhere, latent_frames, tokens
from engine.memory.decoder import decode_bytes, decode_ram_bytes
from engine.memory.encoder import encode_frames_bytes
from engine.memory.text import encode_bytes
from engine.memory.transformer import sample_bytes
from engine.spec import ModelSpec

GIB = 2**30
LIMIT = 0.10


class Meter(TorchDispatchMode):
    """Counts bytes of live storages on one device; `known` ones (weights) are not counted."""

    def __init__(self, known: Iterable[Tensor] = (), device: str = "meta") -> None:
        super().__init__()
        self.device = device
        self.live: dict[int, int] = {}
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.now = self.peak = self.away = 0
        self.where = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.device.type == self.device:
                self._count(leaf.untyped_storage(), func)
        return out

    def _count(self, storage: Any, func: Any) -> None:
        key = storage._cdata
        if key in self.known or key in self.live:
            return
        self.live[key] = storage.nbytes()
        self.now += self.live[key]
        weakref.finalize(storage, self._forget, key)
        if self.now > self.peak:
            self.peak, self.where = self.now, str(func)

    def elsewhere(self, like: Tensor) -> Tensor:
        """A tensor for what `like` holds that counts as the computer's own memory (`away`, a total): the `room` of a decoder on a GPU."""
        made = torch.empty(like.shape, dtype=like.dtype, device=like.device)
        key = made.untyped_storage()._cdata
        self.away += self.live[key]
        self.now -= self.live[key]
        self.live[key] = 0
        return made

    def _forget(self, key: int) -> None:
        self.now -= self.live.pop(key)


class FlashAttention(TorchFunctionMode):
    """Attention with the memory of a flash kernel: on the meta device torch would write down all n x n weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query = args[0]
        sums = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
        out = torch.empty_like(query.transpose(1, 2)).transpose(1, 2)
        del sums
        return out


@dataclasses.dataclass(frozen=True)
class Case:
    """One measurement and what the formula says."""

    name: str
    formula: int | None
    """Bytes; None for stock code the engine does not run, which is only shown."""
    measure: Callable[[], int]
    target: float | None = None
    """GiB wanted at most."""


def transformer_peak(spec: ModelSpec, shape: Shape, *, rows: int, chunked: bool, own_attention: bool = False,
                     layers: int | None = None) -> int:
    """Peak activations of one forward pass in bf16, with its inputs. `layers`: fewer give the same peak sooner."""
    from diffusers import CogVideoXTransformer3DModel

    from engine.models import attention
    from engine.models.chunked import use_chunks

    config = configs(spec.name)["transformer"]
    config = config | {"num_layers": layers or config["num_layers"]}
    with torch.device("meta"):
        model = CogVideoXTransformer3DModel.from_config(config).eval().bfloat16()
    if chunked:
        use_chunks(model)
    sampled, _ = latent_frames(spec, shape.frames)
    high, wide = shape.height // spec.spatial_scale, shape.width // spec.spatial_scale
    meter = Meter([*model.parameters(), *model.buffers()])
    with torch.inference_mode(), meter, FlashAttention(), torch.device("meta"):
        latents = torch.empty(1, sampled, config["in_channels"], high, wide, dtype=torch.bfloat16)
        text = torch.empty(rows, spec.max_text_tokens, spec.text_width, dtype=torch.bfloat16)
        rotary: Any = None
        if spec.position != "sincos":
            count = tokens(spec, shape) - spec.max_text_tokens
            rotary = (torch.empty(count, spec.width // spec.heads), torch.empty(count, spec.width // spec.heads))
            if own_attention:
                rotary = attention.as_complex(rotary)
                if not chunked:
                    model.set_attn_processor(attention.JointAttention())
        offset = torch.empty(1) if config.get("ofs_embed_dim") else None
        model(hidden_states=torch.cat([latents] * rows) if rows > 1 else latents, encoder_hidden_states=text,
              timestep=torch.empty(rows), image_rotary_emb=rotary, ofs=offset, return_dict=False)
    return meter.peak


def decoder_peak(spec: ModelSpec, shape: Shape, run: Callable[..., Iterator[Tensor]], *, lean: bool = False,
                 beside: bool = False) -> int:
    """Peak activations of decoding in bf16, with the latents. `lean`: as `vae_decode.speed_up` leaves the decoder.

    `beside`: what is kept between chunks and what is finished rests in the computer's memory, as on a GPU, and is not counted; `run`
    then gets a third argument, the `room` for that.
    """
    from diffusers import AutoencoderKLCogVideoX

    from engine.models import vae_decode

    with torch.device("meta"):
        vae = AutoencoderKLCogVideoX.from_config(configs(spec.name)["vae"]).eval().bfloat16()
    if lean:
        vae_decode._patch(vae.decoder)
    sampled, padding = latent_frames(spec, shape.frames)
    meter = Meter([*vae.parameters(), *vae.buffers()])
    with torch.inference_mode(), meter:
        size = (sampled - padding, shape.height // spec.spatial_scale, shape.width // spec.spatial_scale)
        latents = torch.empty(1, spec.latent_channels, *size, dtype=torch.bfloat16, device="meta")
        frames = 0
        for chunk in run(vae, latents, meter.elsewhere) if beside else run(vae, latents):
            frames += chunk.shape[2]
            assert chunk.shape[3:] == (shape.height, shape.width)
            del chunk
    assert frames == shape.frames
    return meter.peak


def encoder_peak(spec: ModelSpec, shape: Shape, run: Callable[..., Iterator[tuple[int, Tensor]]], *, beside: bool = False) -> int:
    """Peak activations of encoding a video of `shape.given` frames in bf16, with its moments. `beside`: as in `decoder_peak`."""
    import numpy as np
    from diffusers import AutoencoderKLCogVideoX

    with torch.device("meta"):
        vae = AutoencoderKLCogVideoX.from_config(configs(spec.name)["vae"]).eval().bfloat16()
    meter = Meter([*vae.parameters(), *vae.buffers()])
    video = np.zeros((shape.given, shape.height, shape.width, 3), np.uint8)
    with torch.inference_mode(), meter:
        moments = list(run(vae, video, meter.elsewhere) if beside else run(vae, video))
    assert moments[-1][0] == shape.given
    return meter.peak


def text_peak(spec: ModelSpec) -> int:
    """Peak activations of T5 on one text in bf16."""
    from transformers import T5Config, T5EncoderModel

    with torch.device("meta"):
        model = T5EncoderModel(T5Config(**configs(spec.name)["text_encoder"])).eval().bfloat16()
    meter = Meter([*model.parameters(), *model.buffers()])
    with torch.inference_mode(), meter, FlashAttention():
        model(torch.zeros(1, spec.max_text_tokens, dtype=torch.long, device="meta"))
    return meter.peak


def placed(shape: Shape, *, tile: tuple[int, int] | None = None, **choices: Any) -> Placement:
    """Everything in bf16 on the device, with these choices."""
    return dataclasses.replace(everywhere("bf16", "resident", tile or (shape.height, shape.width), tiled=False), **choices)


def cases() -> list[Case]:
    """Every case; those with a formula are the ones the engine runs or is about to."""
    from engine.models.vae_decode import decode_chunks

    made: list[Case] = []
    for name in ("CogVideoX-2b", "CogVideoX-5b", "CogVideoX1.5-5B"):
        spec = published(name)
        frames = 81 if spec.patch_size_t else 49
        shape = Shape(frames, spec.native_height, spec.native_width, True)
        size = f"{name} {frames} x {shape.height} x {shape.width}"
        for rows, passes in ((2, 1), (1, 2)):
            for chunked in (False, True):
                choice = placed(shape, passes=passes, feed_forward="chunked" if chunked else "whole")
                made.append(Case(f"{size}, transformer {'chunked' if chunked else 'stock'}, {rows} row(s)",
                                 sample_bytes(spec, shape, "bf16", choice),
                                 lambda s=spec, h=shape, r=rows, c=chunked: transformer_peak(s, h, rows=r, chunked=c),
                                 1.0 if name == "CogVideoX-5b" and rows == 2 and chunked else None))
        half = (shape.height // 2, shape.width // 2)
        made.append(Case(f"{size}, decode stock, whole", None,
                         lambda s=spec, h=shape: decoder_peak(s, h, lambda v, z: iter([v.decode(z).sample]), lean=False)))
        for lean, decoder in ((False, "stock"), (True, "lean")):
            what = "lean" if lean else "stock modules"
            whole = lambda v, z, t=(shape.height, shape.width): decode_chunks(v, z, t)  # noqa: E731
            made.append(Case(f"{size}, decode streamed, {what}",
                             decode_bytes(spec, shape, "bf16", placed(shape, decoder=decoder)),
                             lambda s=spec, h=shape, w=whole, q=lean: decoder_peak(s, h, w, lean=q)))
            if name == "CogVideoX-2b":  # the decoder is the 5B model's
                continue
            tiles = lambda v, z, t=half: decode_chunks(v, z, t)  # noqa: E731
            made.append(Case(f"{size}, decode tiled {half[0]} x {half[1]}, {what}",
                             decode_bytes(spec, shape, "bf16", placed(shape, decoder=decoder, decode="tiled", tile=half)),
                             lambda s=spec, h=shape, w=tiles, q=lean: decoder_peak(s, h, w, lean=q)))
        if name != "CogVideoX-2b":
            made += bounded_cases(spec, shape, half, size)
    for name, given in (("CogVideoX-5b-I2V", 1), ("CogVideoX-5b", 49), ("CogVideoX1.5-5B", 81)):
        made += encoder_cases(published(name), given)
    spec = published("CogVideoX-5b")
    made.append(Case("T5-XXL encoder, one text of 226 tokens", encode_bytes(spec, "bf16"), lambda: text_peak(spec)))
    return made


def bounded_cases(spec: ModelSpec, shape: Shape, tile: tuple[int, int], size: str) -> list[Case]:
    """Decoding in bands and tile by tile, on a GPU, where what is kept rests beside it, and in one memory."""
    from engine.models.band_decode import decode_banded
    from engine.models.bands import host_room
    from engine.models.tile_decode import decode_by_tile

    ways: list[tuple[str, Placement, Callable[..., Iterator[Tensor]], float]] = [
        ("exact, in bands", placed(shape, decode="banded"), lambda v, z, room=host_room: decode_banded(v, z, room=room), 3.0)]
    ways.append((f"tile by tile {tile[0]} x {tile[1]}", placed(shape, decode="by-tile", tile=tile),
                 lambda v, z, room=host_room: decode_by_tile(v, z, tile, room=room), 1.0))
    made = []
    for what, way, run, target in ways:
        for beside, device, where in ((True, "cuda:0", "GPU"), (False, "cpu", "in one memory")):
            ram = decode_ram_bytes(spec, shape, "bf16", way, device) / GIB
            made.append(Case(f"{size}, decode {what}, {where}" + (f" ({ram:.1f} beside it)" if beside else ""),
                             decode_bytes(spec, shape, "bf16", way, device),
                             lambda r=run, q=beside: decoder_peak(spec, shape, r, beside=q),
                             target if beside and spec.name == "CogVideoX-5b" else None))
    return made


def encoder_cases(spec: ModelSpec, given: int) -> list[Case]:
    """Encoding an image or a video: whole, in bands on a GPU, on all tiles together."""
    from engine.models.band_encode import encode_banded
    from engine.models.vae_encode import encode_chunks

    shape = Shape(max(given, 49), spec.native_height, spec.native_width, True, given)
    whole, half = (shape.height, shape.width), (shape.height // 2, shape.width // 2)
    ways: list[tuple[str, Placement, Callable[..., Iterator[tuple[int, Tensor]]]]] = [
        ("whole", placed(shape), lambda v, f: encode_chunks(v, f, whole)),
        ("in bands, GPU", placed(shape, decode="banded"), lambda v, f, room: encode_banded(v, f, room=room)),
        (f"tiled {half[0]} x {half[1]}", placed(shape, decode="tiled", tile=half), lambda v, f: encode_chunks(v, f, half))]
    return [Case(f"{spec.name} {given} x {shape.height} x {shape.width}, encode {what}", encode_frames_bytes(spec, shape, "bf16", way),
                 lambda r=run, q=way.decode == "banded": encoder_peak(spec, shape, r, beside=q)) for what, way, run in ways]


def main() -> int:
    """Prints every case; 1 where a formula is off by more than `LIMIT` or a target is missed."""
    torch.set_num_threads(1)
    words, worst, missed = sys.argv[1:], 0.0, 0
    print(f"{'live activations in bf16, GiB':84} {'counted':>8} {'formula':>8} {'error':>7} {'target':>7}")
    for case in cases():
        if words and not any(word in case.name for word in words):
            continue
        counted = case.measure()
        line = f"{case.name:84} {counted / GIB:8.3f}"
        if case.formula is not None:
            error = case.formula / counted - 1
            worst = max(worst, abs(error))
            line += f" {case.formula / GIB:8.3f} {error:+7.1%}"
        if case.target is not None:
            missed += counted > case.target * GIB
            line += f" {case.target:7.1f}"
        print(line, flush=True)
    print(f"largest error {worst:.1%} (wanted <= {LIMIT:.0%}); targets missed: {missed}")
    return 0 if worst <= LIMIT and not missed else 1


if __name__ == "__main__":
    sys.exit(main())
