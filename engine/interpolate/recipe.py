"""What made a clip with more frames, as one JSON object beside those of generated clips (`engine.video.recipe`). No torch."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from engine.interpolate.plan import LABEL, InterpolatePlan
from engine.interpolate.request import InterpolateRequest
from engine.interpolate.smoothing import GENERATED
from engine.video.recipe import AI_SOURCE, PACKAGES, RECIPE_VERSION, app_version, package_version

if TYPE_CHECKING:
    from engine.plan import Plan

KIND = "interpolate"
ALSO_FROM = "also_from"
"""Of a recipe: the second clip that this one was made from, beside `made_from`."""
ENHANCED = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicallyEnhanced"
"""IPTC's word for what a camera saw and a program changed."""


def build_interpolation_recipe(request: InterpolateRequest, plan: InterpolatePlan, *, clip_id: str, made_from: str | None,
                               created: datetime, source: Mapping[str, Any], generated: bool) -> dict[str, Any]:
    """`source`: what is known of the video: title, and of a clip its prompt, model and seed. `generated`: a model made it.

    Holds no path, user name or host name, so a file may be given away.
    """
    return {
        **_beginning(f"{LABEL}, not generation", AI_SOURCE if generated else ENHANCED, request, clip_id, made_from, created),
        "source": dict(source),
        "plan": plan.to_json(),
        "versions": _versions("opencv-python-headless", "av"),
    }


def build_smoothing_recipe(request: InterpolateRequest, plan: Plan, *, clip_id: str, made_from: str | None, created: datetime,
                           source: Mapping[str, Any], source_fps: float) -> dict[str, Any]:
    """As `build_interpolation_recipe`, for frames between that a model made (`engine.interpolate.smoothing`)."""
    assert plan.hierarchy is not None
    return {
        **_beginning(GENERATED, AI_SOURCE, request, clip_id, made_from, created),
        "source": dict(source),
        "plan": {"method": request.method, "source_fps": source_fps, "slow": request.slow or 1.0, "fps": plan.fps, "frames": plan.frames,
                 "device": plan.device, "dtype": plan.dtype},
        "hierarchy": plan.hierarchy.to_json(),
        "versions": _versions(*PACKAGES),
    }


def _beginning(label: str, source_type: str, request: InterpolateRequest, clip_id: str, made_from: str | None,
               created: datetime) -> dict[str, Any]:
    return {"sprocket": RECIPE_VERSION, "kind": KIND, "label": label, "app_version": app_version(),
            "created": created.isoformat(timespec="seconds"), "clip_id": clip_id, "made_from": made_from,
            **({ALSO_FROM: request.then_clip} if request.then_clip else {}), "digitalSourceType": source_type, "request": request.to_json()}


def _versions(*packages: str) -> dict[str, str | None]:
    return {"python": platform.python_version()} | {name: package_version(name) for name in packages}
