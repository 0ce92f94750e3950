"""--seconds, --fps, --key-frames and --keyframe of `sprocket generate`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from app.cli_start import ANY_INPUT, input_of
from app.length import frames_at_once, frames_of, with_known
from engine.errors import InvalidRequest
from engine.request import GenerationRequest

if TYPE_CHECKING:
    from app.studio import Studio


@dataclass(frozen=True, slots=True)
class Length:
    """What the options say."""

    seconds: float | None
    fps: float | None
    key_frames: int | None
    keyframes: tuple[tuple[str, str], ...]
    """(place, file)."""

    @property
    def asked(self) -> bool:
        return self.seconds is not None or self.fps is not None or self.key_frames is not None or bool(self.keyframes)

    def values(self, frames: int | None) -> dict[str, Any]:
        """Request fields, with a stand-in for images: to be checked before anything is copied. Raises InvalidRequest."""
        if self.seconds is not None and frames is not None:
            raise InvalidRequest("seconds", "and --frames both say how long the clip is. Leave one out.")
        given = [[number + 1, ANY_INPUT] for number in range(len(self.keyframes))]
        return {"fps": self.fps if self.fps is not None or not self.asked else 8.0, "key_frames": self.key_frames, "given": given}

    def applied(self, studio: Studio, request: GenerationRequest) -> GenerationRequest:
        """`request` with these; images are taken into the studio's inputs. Raises InvalidRequest."""
        if not self.asked:
            return request
        spec = studio.spec(request.model)
        known = [(place, _image_of(studio, file)) for place, file in self.keyframes]
        if spec.shown and self.fps is None and self.key_frames is None:
            frames = request.frames if self.seconds is None else frames_at_once(self.seconds, spec)
            return with_known(replace(request, frames=frames, fps=None, key_frames=None, given=()), spec, known)
        frames = request.frames if self.seconds is None else frames_of(self.seconds, self.fps, self.key_frames, spec)
        wish = replace(request, frames=frames, fps=self.fps if self.fps is not None else spec.fps, key_frames=self.key_frames, given=())
        return with_known(wish, spec, known)


def _image_of(studio: Studio, file: str) -> str:
    """Raises InvalidRequest, of --keyframe and not of --image, which may be given too."""
    try:
        return input_of(studio, file, "image")
    except InvalidRequest as error:
        raise InvalidRequest("keyframe", error.message, suggestion=error.suggestion) from error


def read_keyframes(values: list[str] | None) -> tuple[tuple[str, str], ...]:
    """INDEX=IMAGE each. Raises InvalidRequest."""
    pairs = []
    for value in values or ():
        place, mark, file = value.partition("=")
        if not mark or not place.strip() or not file:
            raise InvalidRequest("keyframe", f"is {value[:80]!r}; it must be INDEX=IMAGE, for example 0=start.png or last=end.png.")
        pairs.append((place.strip(), file))
    return tuple(pairs)
