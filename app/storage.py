"""Is there room to write? Looked up from the disk itself, so that it can be said even when nothing can be stored."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid

from app.settings import MIB, Settings
from engine.errors import StorageBlocked
from engine.video.publish import storage_errors


def free_bytes(settings: Settings) -> int:
    """Bytes this user can still write below the data directory (0 if it cannot be asked)."""
    try:
        return shutil.disk_usage(settings.data_dir).free
    except OSError:
        return 0


def problem(settings: Settings, need_bytes: int = 0) -> str | None:
    """Why nothing can be written now, for people; None when all is well. `need_bytes`: what the next job will write.

    Really writes, because permissions and mount flags do not tell the whole truth (quotas, root, network disks).
    """
    free, least = free_bytes(settings), settings.min_free_bytes + need_bytes
    if free < least:
        return (f"The disk of {settings.data_dir} has {free / MIB:,.0f} MiB free; {least / MIB:,.0f} MiB are needed. "
                "Free some space; waiting jobs go on by themselves.")
    probe = settings.parts_dir / f"probe-{uuid.uuid4().hex[:8]}.part"
    try:
        with storage_errors(settings.data_dir):
            settings.parts_dir.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"x" * 4096)
    except StorageBlocked as error:
        return str(error)
    except OSError as error:
        return f"{settings.data_dir} cannot be written ({error.strerror}). Check who owns the folder."
    finally:
        with contextlib.suppress(OSError):  # said above
            probe.unlink(missing_ok=True)
    return None


def keep_ballast(settings: Settings) -> None:
    """Lays the ballast file down where it is missing and there is room. Never raises for a full disk."""
    path, size = settings.ballast_path, settings.ballast_bytes
    if size == 0 or path.exists() or free_bytes(settings) < settings.min_free_bytes + 2 * size:
        return
    part = path.with_suffix(".part")
    try:
        with part.open("wb") as file:
            for _ in range(0, size, MIB):
                file.write(os.urandom(MIB))  # a compressing file system must not shrink it
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)


def drop_ballast(settings: Settings) -> bool:
    """Gives the ballast up. True when that made room."""
    try:
        settings.ballast_path.unlink()
        return True
    except OSError:
        return False
