"""Models that are shown some frames of the clip they make: which frames a request shows them. Pure, no torch.

    ends     the first and the last frame, in 2 C channels (feizc's CogvideX-Interpolation)
    masked   any frames, or none, as a video whose other frames are blank and a mask, in 2 C + 1 channels (CogVideoX-Fun's InP models)

One clip at once, without key frames and rounds. What stands beside the noise is made in `engine.interpolate.community`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import InvalidRequest
from engine.request import GenerationRequest

if TYPE_CHECKING:
    from engine.spec import ModelSpec


def at_once(request: GenerationRequest, spec: ModelSpec) -> bool:
    """Whether the model makes the whole clip around its given frames, with no key frames first."""
    return bool(spec.shown) and request.key_frames is None and request.fps in (None, spec.fps) and not request.edits and not request.review


def check_shown(request: GenerationRequest, spec: ModelSpec, frames: int) -> None:
    """Raises `InvalidRequest` for frames that this model cannot be shown. `frames`: of the clip."""
    given = [index for index, _ in request.given] + ([0] if request.image else [])
    for index in given:
        if index >= frames:
            raise InvalidRequest("given", f"names frame {index}; the clip has {frames}, numbered 0 to {frames - 1}. Use one of those, or "
                                          "make the clip longer.", suggestion=frames - 1)
    if spec.shown == "ends" and (frames < 2 or sorted(given) != [0, frames - 1]):
        there = ", ".join(map(str, sorted(given))) or "none"
        raise InvalidRequest("given", f"names the frames {there}; {spec.name} is shown the first frame and the last, 0 and {frames - 1}, "
                                      "both and no others. Give an image for each.")


def shown_notes(request: GenerationRequest, spec: ModelSpec, frames: int) -> tuple[str, ...]:
    """What people should know of it; the first says what will happen."""
    if not (request.given or (request.image and spec.shown)):
        return ()
    count = len(request.given) + (request.image is not None)
    what = "1 frame" if count == 1 else f"{count} frames"
    return (f"{frames} frames at once, around {what} that {spec.name} is shown; the clip passes near them, not through their very pixels.",)
