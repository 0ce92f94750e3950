"""Streamed blocks against resident ones: bytes that move in a pass, blocks that are there at once, the same bits, and the time.

    python -m bench.streaming [--layers 12] [--width 384] [--steps 5]

A transformer of CogVideoX's architecture with random weights, a batch of two rows (both halves of guidance), and a T5 encoder; on
a GPU where there is one, else processor to processor, where the same code runs without the side stream. Steps alternate between
resident and streamed. The verdict is on counters, never on time: exit status 1 where a pass moves anything but every block's
weights once, more than two blocks are there, the slots take more than two blocks, or a bit differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.memory import Home
from engine.memory.weights import moved_bytes, stored_bytes, working_bytes
from engine.models.component import BLOCKS, Component
from engine.models.layout import layout_of
from engine.models.streaming import ALIGNED
from engine.models.weights import component_weights

MB = 1e6
HEAD = 64
WAYS = [("fp32", "ram"), ("fp32", "disk"), ("bf16", "ram"), ("bf16", "disk"), ("int8", "ram"), ("fp8", "ram")]


def save(folder: Path, layers: int, width: int) -> dict[str, Any]:
    """Both components below `folder`; their classes."""
    from diffusers import CogVideoXTransformer3DModel
    from diffusers.utils.logging import disable_progress_bar
    from transformers import T5Config, T5EncoderModel

    disable_progress_bar()
    torch.manual_seed(0)
    CogVideoXTransformer3DModel(
        num_attention_heads=width // HEAD, attention_head_dim=HEAD, in_channels=16, out_channels=16, time_embed_dim=512,
        text_embed_dim=width, num_layers=layers, sample_width=30, sample_height=20, sample_frames=17,
        max_text_seq_length=64).save_pretrained(folder / "transformer")
    T5EncoderModel(T5Config(vocab_size=1000, d_model=width, d_kv=HEAD, d_ff=width * 5 // 2, num_layers=layers, num_heads=width // HEAD,
                            feed_forward_proj="gated-gelu")).save_pretrained(folder / "text_encoder")
    return {"transformer": CogVideoXTransformer3DModel, "text_encoder": T5EncoderModel}


def inputs(part: str, width: int, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Of one pass."""
    draw = torch.Generator().manual_seed(1)
    if part == "text_encoder":
        return {"input_ids": torch.randint(0, 1000, (1, 64), generator=draw).to(device)}
    latents, text = (torch.randn(*shape, generator=draw).to(device, dtype) for shape in ((1, 5, 16, 20, 30), (2, 64, width)))
    return {"hidden_states": torch.cat([latents] * 2), "encoder_hidden_states": text,
            "timestep": torch.tensor([500, 500], device=device), "return_dict": False}


@torch.inference_mode()
def passed(component: Component, given: dict[str, Any]) -> tuple[Tensor, float]:
    """The result of one pass, and seconds."""
    begun = time.perf_counter()
    result: Tensor = component.ready()(**given)[0]
    if component.device.type == "cuda":
        torch.cuda.synchronize(component.device)
    return result, time.perf_counter() - begun


def compared(kind: Any, folder: Path, precision: str, source: str, width: int, steps: int) -> bool:
    """Prints one line; False where a counter or a bit is wrong."""
    part, device = folder.name, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compute = precision if precision in ("fp32", "bf16") else "bf16" if device.type == "cuda" else "fp32"
    home = Home(precision, "streamed", source)
    found = layout_of({name: shape for file in component_weights(folder) for name, (_, shape) in file.tensors.items()})
    here = Component(kind, folder, part, Home(precision, "resident"), compute, device)
    away = Component(kind, folder, part, home, compute, device)
    given = inputs(part, width, here.dtype, device)
    blocks = sum(one.nbytes for packing in away._packings for weight in packing.weights for one in weight.all)
    passed(here, given)
    passed(away, given)
    stream, equal, moves, ratios = away.stream, True, set(), []
    assert stream is not None
    for step in range(steps):
        before = stream.moved
        pair = {component: passed(component, given) for component in ((here, away) if step % 2 else (away, here))}
        equal = equal and torch.equal(pair[here][0], pair[away][0])
        moves.add(stream.moved - before)
        ratios.append(pair[away][1] / pair[here][1])
    outside = sum(one.nbytes for weight in away._staged for one in weight.all)
    held, gaps = outside + stream.slot_bytes, 2 * ALIGNED * max(len(packing.weights) * 2 for packing in away._packings)
    wide = found.largest * here.dtype.itemsize if precision in ("int8", "fp8") else 0
    forecast = working_bytes(found, home, compute) - wide
    print(f"{part:13}{precision:5} from {source:5}{stored_bytes(found, home, compute) / MB:9.1f} {blocks / MB:9.1f} "
          f"{'/'.join(f'{moved / MB:.1f}' for moved in sorted(moves)):>9} {moved_bytes(found, home, compute) / MB:9.1f} "
          f"{stream.peak_blocks:7} {held / MB:9.1f} {forecast / MB:9.1f} {'equal' if equal else 'DIFFER':>7} {median(ratios):6.2f}",
          flush=True)
    for component in (here, away):
        component.close()
    return equal and moves == {blocks} and stream.peak_blocks <= 2 and held <= forecast + gaps


def main() -> int:
    """Prints every way; 1 where a counter or a bit is wrong."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    asked.add_argument("--layers", type=int, default=12)
    asked.add_argument("--width", type=int, default=384)
    asked.add_argument("--steps", type=int, default=5)
    words = asked.parse_args()
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "processor to processor"
    print(f"{words.layers} layers of width {words.width}, {words.steps} passes each, {where}; sizes in MB")
    columns = zip(("weights", "in blocks", "a pass", "forecast", "blocks", "held", "forecast", "bits", "time"),
                  (9, 9, 9, 9, 7, 9, 9, 7, 6), strict=True)
    print(f"{'':29}" + " ".join(f"{word:>{width}}" for word, width in columns))
    right = True
    with tempfile.TemporaryDirectory() as name:
        kinds = save(Path(name), words.layers, words.width)
        for part in BLOCKS:
            for precision, source in WAYS:
                right = compared(kinds[part], Path(name) / part, precision, source, words.width, words.steps) and right
    print("a pass moves each block's weights once, for both halves of guidance; two blocks at most: " + ("yes" if right else "NO"))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
