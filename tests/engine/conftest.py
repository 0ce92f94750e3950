"""Tiny models, saved once a test process, and one loaded copy of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.models.cache import ModelCache
from engine.plan import Plan, plan
from engine.request import GenerationRequest
from engine.spec import read_spec
from tests.engine.tiny import CPU, save_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """tiny('rope' | 'sincos' | '1.5' | 'i2v-rope' ...) -> its folder. Do not change it; copy it."""
    import torch

    torch.set_num_threads(1)
    saved: dict[str, Path] = {}

    def get(kind: str = "rope") -> Path:
        if kind not in saved:
            saved[kind] = save_tiny(tmp_path_factory.mktemp("models") / f"tiny-{kind}", kind)
        return saved[kind]

    return get


@pytest.fixture(scope="session")
def caches() -> Iterator[dict[str, ModelCache]]:
    held: dict[str, ModelCache] = {}
    yield held
    for cache in held.values():
        cache.close()


@pytest.fixture
def tiny_plan(tiny: Callable[..., Path]) -> Callable[..., Plan]:
    """tiny_plan(kind='rope', **request fields) -> a plan with 3 steps and 9 frames unless said otherwise."""

    def make(kind: str = "rope", **fields: Any) -> Plan:
        wish = {"prompt": "a red fox", "steps": 3, "seed": 7, "guidance": 6.0, "model": str(tiny(kind))} | fields
        return plan(GenerationRequest(**wish), read_spec(tiny(kind), f"tiny-{kind}"), CPU)

    return make


@pytest.fixture
def cache_of(caches: dict[str, ModelCache]) -> Iterator[Callable[[Plan], ModelCache]]:
    """The cache that holds the model of a plan, shared by all tests of the process; LoRAs of one test are off the warm model after it."""
    with_loras: dict[str, Plan] = {}

    def get(job: Plan) -> ModelCache:
        if job.loras:
            with_loras[job.spec.name] = job
        return caches.setdefault(job.spec.name, ModelCache())

    yield get
    for name, job in with_loras.items():
        caches[name].get(job).loras.use((), None)
