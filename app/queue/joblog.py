"""The log of one job, in its own folder: what was said while it ran, and the stack of a crash in native code."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
from collections.abc import Iterator

from app.settings import Settings


class _QuietHandler(logging.StreamHandler):
    """Loses lines on a full disk instead of writing a stack trace for each to standard error."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextlib.contextmanager
def job_log(settings: Settings, job_id: str) -> Iterator[None]:
    """Everything logged in the block also goes to jobs/<id>/log.txt. A disk that is full costs the log, not the job."""
    try:
        folder = settings.job_dir(job_id)
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "log.txt").open("a", encoding="utf-8", errors="backslashreplace")
    except OSError:
        yield
        return
    handler = _QuietHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    was_enabled, level = faulthandler.is_enabled(), root.level
    root.addHandler(handler)
    if level > logging.INFO:
        root.setLevel(logging.INFO)
    try:
        faulthandler.enable(file=file)
        yield
    finally:
        faulthandler.disable()
        if was_enabled:
            faulthandler.enable()
        root.setLevel(level)
        root.removeHandler(handler)
        with contextlib.suppress(OSError):
            file.close()
