"""The table in docs/planner.md is up to date, and what it chooses fits when it is counted on the meta device."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from bench.meta_memory import decoder_peak, text_peak, transformer_peak
from bench.planner_table import BUDGETS, DOCUMENT, GIB, MODELS, document, rows
from engine.facts import published
from engine.memory import Shape
from engine.memory.peak import CONTEXT_BYTES, STAGES
from engine.memory.weights import layout, working_bytes


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run `python -m bench.planner_table`"


@cache
def counted(stage: str, name: str, shape: Shape, choice: tuple[object, ...]) -> int:
    """Live bytes of one stage beside its weights; few layers and chunks, which have the peak of all."""
    from engine.models.band_decode import decode_banded
    from engine.models.vae_decode import decode_chunks

    spec = published(name)
    if stage == "encode":
        return text_peak(spec)
    if stage == "sample":
        return transformer_peak(spec, shape, rows=2, chunked=choice == ("chunked",), layers=2)
    how, tile = choice
    assert isinstance(tile, tuple)
    if how == "whole":
        return decoder_peak(spec, Shape(17, *tile, True), lambda vae, z: decode_chunks(vae, z, tile), lean=True)
    # Tile by tile: one tile as a clip of its own; what is finished rests beside the GPU.
    assert how in ("banded", "by-tile")
    return decoder_peak(spec, Shape(25, *tile, True), lambda vae, z, room: decode_banded(vae, z, room=room), beside=True)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_choice_is_feasible(name: str) -> None:
    spec = published(name)
    mine = [row for row in rows() if row.model == name]
    assert [row.gib for row in mine] == list(BUDGETS)
    for row in mine:
        assert row.plan is not None, f"{name} must fit in {row.gib} GiB"
        job, way = row.plan, row.plan.placement
        shape = Shape(job.frames, job.height, job.width, True)
        choices = {"encode": (), "sample": (way.feed_forward,), "decode": (way.decode, way.tile)}
        resident = sum(working_bytes(layout(spec, part), home, job.dtype) for part, home in way.homes.items()
                       if home.residency == "resident")
        for stage, part in STAGES.items():
            home = way.homes[part]
            own = 0 if home.residency == "resident" else working_bytes(layout(spec, part), home, job.dtype)
            same = replace(shape, guided=True)
            need = resident + own + counted(stage, name, same, choices[stage]) + CONTEXT_BYTES
            assert need <= row.gib * GIB, (row.gib, stage)
