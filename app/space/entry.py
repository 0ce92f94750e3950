"""The studio on a Hugging Face Space, with a GPU of its own or with ZeroGPU. `app.py` comes here where `SPACE_ID` is set.

    SPROCKET_BUCKET           folder of a mounted storage bucket: clips outlive restarts
    SPROCKET_ADMINS           names (commas) of accounts that may change models and LoRAs
    SPROCKET_ZERO_SECONDS     longest call of the GPU, default 60
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from pathlib import Path

from app.history.usage import made_before
from app.logs import set_up_logs
from app.serve import at_work
from app.settings import Settings
from app.sharing.settings import SharingSettings
from app.sharing.visitor import ANONYMOUS
from app.space import bucket, zero
from app.space.access import SpaceAccess
from app.space.segments import LONGEST_SECONDS
from app.studio import Studio
from engine.errors import InvalidRequest, SprocketError

PORT = 7860
HOUSE_SECONDS = 20.0
log = logging.getLogger(__name__)


def is_zero() -> bool:
    """ZeroGPU, or a Space that wants the same way of running."""
    return any(os.environ.get(name, "").lower() in ("1", "t", "true") for name in ("SPACES_ZERO_GPU", "SPROCKET_INLINE"))


def main() -> None:
    """Serves until the platform stops it. Raises InvalidRequest for a setting that is none."""
    call = zero.lent() if is_zero() else None  # imports `spaces`, which has to come before torch
    set_up_logs()
    settings = Settings(**({} if "SPROCKET_HOST" in os.environ else {"host": "0.0.0.0"}),  # the container's; the platform is in front
                        **({} if "SPROCKET_PORT" in os.environ else {"port": PORT}))
    there = Path(os.environ["SPROCKET_BUCKET"]) if os.environ.get("SPROCKET_BUCKET") else None
    settings.make_folders()
    if there is not None:
        found = bucket.restore(settings, there)
        sys.stderr.write(f"{found.clips} clips came back from the bucket; {found.broken} were not whole.\n")
    admins = frozenset(filter(None, (name.strip() for name in os.environ.get("SPROCKET_ADMINS", "").split(","))))
    access = SpaceAccess(SharingSettings(), settings.data_dir, admins=admins)
    with contextlib.ExitStack() as stack:
        studio = stack.enter_context(at_work(settings, worker=call is None))
        if call is not None:
            access.inline = zero.Zero(studio, call, longest())
            zero.load_ahead(settings)
            access.inline.start()
            stack.callback(access.inline.close)
            report_start()
        stack.callback(keep_house(studio, access.sharing, there).set)
        from app.ui.server import serve

        serve(studio, settings.host, settings.port, access)


def report_start() -> None:
    """Tells ZeroGPU that the app is up; gradio's own launch, which we do not use, would."""
    import spaces.zero

    start = getattr(spaces.zero, "startup", None)  # only there on the platform
    if start is not None:
        start()


def longest() -> float:
    """Seconds of one call. Raises InvalidRequest."""
    said = os.environ.get("SPROCKET_ZERO_SECONDS", str(LONGEST_SECONDS))
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not 15 <= seconds <= 600:
        raise InvalidRequest("zero_seconds", f"is {said[:40]!r}; SPROCKET_ZERO_SECONDS is 15 to 600.")
    return seconds


def keep_house(studio: Studio, sharing: SharingSettings, there: Path | None) -> threading.Event:
    """Copies what is finished to the bucket and lets go of what nobody signed in for. Set the event to end it."""
    done = threading.Event()

    def keep() -> None:
        while not done.wait(HOUSE_SECONDS):
            try:
                expire(studio, sharing.anonymous_hours, there)
                if there is not None:
                    bucket.store(studio.settings.media_dir, there)
            except (OSError, SprocketError) as error:
                log.warning("housekeeping has to wait: %s", error)

    threading.Thread(target=keep, name="space-house", daemon=True).start()
    return done


def expire(studio: Studio, hours: float, there: Path | None, now: float | None = None) -> int:
    """Deletes the clips of browsers that never signed in, `hours` after they were made; nobody sees them any more."""
    old = made_before(studio.store, ANONYMOUS, (time.time() if now is None else now) - hours * 3600)
    for clip, file in old:
        if there is not None:
            bucket.forget(there, file)
        path = studio.settings.media_dir / file
        for ending in (".json", ".mp4", ".webp"):
            path.with_suffix(ending).unlink(missing_ok=True)
        studio.published.forget(clip)
    if old:
        studio.store.clips.set_missing([clip for clip, _file in old], True)
        studio.store.published.withdraw(clip for clip, _file in old)
    return len(old)
