"""The images and videos that clips start from: files named after what is in them, in one folder.

    inputs/<sha256>.png|jpg|mp4|...

So a recipe can name its input without a path, the same file is kept once, and a file that was changed is noticed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from engine.digest import file_sha256
from engine.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np

    from engine.plan import Plan


def input_name(path: Path, kind: str) -> str:
    """`<sha256 of the file>.<kind>`. Raises OSError."""
    return f"{file_sha256(path)}.{kind}"


def input_file(folder: Path | None, name: str, field: str) -> Path:
    """The file of an input. Raises `InvalidRequest` (`field`: 'image' or 'video') if it is not there."""
    path = None if folder is None else folder / name
    if path is None or not path.is_file():
        raise InvalidRequest(field, f"{name[:12]}... is not among the inputs of this studio. Choose the {field} file again: the "
                                    "same file gets the same name.")
    return path


def read_shown(plan: Plan, folder: Path | None) -> np.ndarray:
    """The frames that the model of `plan` is shown, in order, in the clip's size: uint8 (n, height, width, 3). Raises `InvalidRequest`."""
    import dataclasses

    import numpy as np

    found = []
    for index, name in plan.frames_shown.items():
        try:
            found.append(read_input(dataclasses.replace(plan, mode="i2v", input=name), folder)[0])
        except InvalidRequest as error:
            if plan.mode == "i2v" and index == 0:
                raise
            raise InvalidRequest("given", f"frame {index}: {error.message}") from error
    return np.stack(found) if found else np.zeros((0, plan.height, plan.width, 3), np.uint8)


def read_input(plan: Plan, folder: Path | None) -> np.ndarray:
    """What `plan` starts from in the clip's size: uint8 (1 or plan.frames, height, width, 3), sRGB.

    A video is read at the clip's own rate, so that things move as fast as they did. Raises `InvalidRequest` for a file
    that is gone, changed, unreadable or too short.
    """
    field = "image" if plan.mode == "i2v" else "video"
    path = input_file(folder, plan.input, field)
    try:
        same = path.name.partition(".")[0] == file_sha256(path)
    except OSError as error:
        raise InvalidRequest(field, f"its file {path.name[:12]}... cannot be read ({error.strerror}).") from error
    if not same:
        raise InvalidRequest(field, f"its file {path.name[:12]}... was changed after it was added. Choose the {field} again.")
    fit = cast('Literal["crop", "pad"]', plan.fit)
    if field == "image":
        from engine.media.image import load_image  # imaging libraries, which a plan does not need

        return load_image(path, width=plan.width, height=plan.height, fit=fit)[None]
    from engine.media.clip import read_frames

    return read_frames(path, frames=plan.frames, width=plan.width, height=plan.height, fit=fit, fps=plan.fps)
