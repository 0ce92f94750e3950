"""What made a clip with more frames, as one JSON object beside those of generated clips (`engine.video.recipe`). No torch."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from engine.interpolate.plan import LABEL, InterpolatePlan
from engine.interpolate.request import InterpolateRequest
from engine.video.recipe import AI_SOURCE, RECIPE_VERSION, app_version, package_version

KIND = "interpolate"
ENHANCED = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicallyEnhanced"
"""IPTC's word for what a camera saw and a program changed."""


def build_interpolation_recipe(request: InterpolateRequest, plan: InterpolatePlan, *, clip_id: str, made_from: str | None,
                               created: datetime, source: Mapping[str, Any], generated: bool) -> dict[str, Any]:
    """`source`: what is known of the video: title, and of a clip its prompt, model and seed. `generated`: a model made it.

    Holds no path, user name or host name, so a file may be given away.
    """
    return {
        "sprocket": RECIPE_VERSION,
        "kind": KIND,
        "label": f"{LABEL}, not generation",
        "app_version": app_version(),
        "created": created.isoformat(timespec="seconds"),
        "clip_id": clip_id,
        "made_from": made_from,
        "digitalSourceType": AI_SOURCE if generated else ENHANCED,
        "request": request.to_json(),
        "source": dict(source),
        "plan": plan.to_json(),
        "versions": {"python": platform.python_version()} | {name: package_version(name) for name in ("opencv-python-headless", "av")},
    }
