"""The tiny models of the engine's tests."""

from tests.engine.conftest import cache_of, caches, tiny, tiny_plan

__all__ = ["cache_of", "caches", "tiny", "tiny_plan"]
