"""A video that is changed, when memory runs out after it was encoded: the rung decodes what the first way has sampled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.checkpoint import PATTERN
from engine.errors import MemoryRanOut
from engine.ladder import Lapse
from engine.models.cache import ModelCache
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from engine.spec import read_spec
from tests.engine.test_checkpoint import clip
from tests.engine.test_out_of_memory import Faulty, an_error, events
from tests.engine.test_run_modes import folder as folder  # noqa: PLC0414  (a fixture)
from tests.engine.test_run_modes import named
from tests.engine.tiny import CPU


def latents(folder: Path) -> torch.Tensor:
    """Of the newest sampling state."""
    return load_file(max((folder / "work").glob(PATTERN)))["latents"]


@pytest.mark.parametrize("lapses", [1, 2])
def test_what_was_sampled_is_decoded(lapses: int, folder: Path, tmp_path: Path, tiny: Callable[..., Path],
                                     cache_of: Callable[[Plan], ModelCache]) -> None:
    """The first rung decodes in bands, the next tile by tile; both read the video exactly. So what goes on after memory ran out in
    decoding is the file that the rung makes by itself."""
    spec = read_spec(tiny("rope"), "tiny-rope")
    wish = GenerationRequest(prompt="a red fox", steps=3, seed=7, model=str(tiny("rope")), frames=17, guidance=6.0,
                             video=named(folder, "mkv"), strength=1.0, quality="near-lossless")
    job = plan(wish, spec, CPU)
    models, seen = cache_of(job), [Lapse("decode", "device", job.placement)]

    def up_to_decoding(way: Plan, name: str) -> torch.Tensor:
        with pytest.raises(MemoryRanOut):
            events(way, tmp_path / name, Faulty(models, "decode", an_error("torch")), folder)
        return latents(tmp_path / name)

    sampled = up_to_decoding(job, "job")
    lower = plan(wish, spec, CPU, lapses=seen)
    if lapses == 2:
        assert torch.equal(up_to_decoding(lower, "job"), sampled)  # resumed before decoding: nothing is sampled again
        lower = plan(wish, spec, CPU, lapses=[*seen, Lapse("decode", "device", lower.placement)])
    assert lower.placement.exact == (lapses == 1)
    alone = up_to_decoding(lower, "alone")
    resumed, uninterrupted = (clip(events(lower, tmp_path / name, models, folder)).sha256 for name in ("job", "alone"))
    assert torch.equal(sampled, alone)
    assert resumed == uninterrupted
