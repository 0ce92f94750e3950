"""Smooth and Slow down: the buttons on a clip, and what a job of that kind looks like while it runs."""

from __future__ import annotations

from app.history.records import Clip
from app.ui.html.common import button

SMOOTH = (16, 24, 30)
SLOW = (2, 4)
STAGES = (("load", "Read"), ("interpolate", "Move pixels"), ("verify", "Check"))
LABEL = "Motion interpolation, not generation"


def interpolate_html(clip: Clip) -> str:
    """A quiet row of its own, named for what it is. Only rates that add frames are offered."""
    rates = "".join(button(f"Smooth to {fps} fps", "interpolate", kind="small", clip=clip.id, fps=fps, view="create")
                    for fps in SMOOTH if fps > clip.fps + 0.01)
    slow = "".join(button(f"Slow down {times}x", "interpolate", kind="small", clip=clip.id, slow=times, view="create") for times in SLOW)
    if clip.frames < 2:
        return ""
    return f'<div class="actions smooth" role="group" aria-label="{LABEL}"><span class="quiet">{LABEL}:</span>{rates}{slow}</div>'
