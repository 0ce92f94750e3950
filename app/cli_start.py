"""What a clip of `sprocket generate` starts from besides its words: --image, --video, or --extend a clip --at a frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InvalidRequest
from engine.plan import check_mode
from engine.request import INPUT_NAME, GenerationRequest

if TYPE_CHECKING:
    from app.studio import Studio

ANY_INPUT = f"{'0' * 64}.png"
Start = tuple[str | None, str | None, str | None, int | None]
"""What --image, --video, --extend and --at say."""


def check_start(values: Mapping[str, Any], image: str | None, video: str | None, extend: str | None, at: int | None) -> GenerationRequest:
    """The request with a stand-in for its input. Raises `InvalidRequest` for what no file could make right, before anything is copied."""
    if extend is not None and (image is not None or video is not None):
        raise InvalidRequest("extend", "takes its first frame from a clip, and --image or --video is given too. Use one of them.")
    if at is not None and extend is None:
        raise InvalidRequest("at", "says at which frame a clip is extended, and there is none. Give --extend CLIP, or leave it out.")
    pretended = {"image": ANY_INPUT if image is not None or extend is not None else None,
                 "video": ANY_INPUT if video is not None else None}
    return GenerationRequest(**{**values, **pretended})


def start_from(studio: Studio, values: Mapping[str, Any], image: str | None, video: str | None, extend: str | None,
               at: int | None) -> tuple[GenerationRequest, str | None]:
    """(the request, id of the clip it is made from). Files are copied into the studio's inputs. Raises as `Studio.add_input`."""
    check_mode(check_start(values, image, video, extend, at), studio.spec(values["model"]))
    given = {"image": image if image is None else input_of(studio, image, "image"),
             "video": video if video is None else input_of(studio, video, "video")}
    if extend is not None:
        given["image"] = studio.add_frame(extend, at)
    return GenerationRequest(**{**values, **given}), extend


def input_of(studio: Studio, value: str, field: str) -> str:
    """The name of the input that `value` names or, if it is a file, becomes. Raises as `Studio.add_input`."""
    """A name that `sprocket history restore` printed is an input already; anything else is a file."""
    if INPUT_NAME.fullmatch(value) and not Path(value).exists():
        return value
    return studio.add_input(Path(value), field=field)
