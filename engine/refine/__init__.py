"""Prompt refinement: a short wish becomes the description a video model was trained on. See docs/refine.md.

    ask = Ask(text="ball goes up fast, beach")
    refine_pocket(ask)                         the embedded refiner, offline
    refine_by_chat(ask, stream)                any chat model: `endpoint.Endpoint`, `local.LocalModel`

No torch here: the local model runs in a process of its own.
"""

from engine.refine.result import BACKENDS, PURPOSES, Ask, Refinement, RefinerFailed

__all__ = ["BACKENDS", "PURPOSES", "Ask", "Refinement", "RefinerFailed"]
