"""Putting a finished file under its final name so that nobody ever sees half of it, and nothing is overwritten."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from engine.errors import StorageBlocked

FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Of a disk that takes nothing, whichever file it is."""
STORAGE_ERRORS = (*FULL_ERRORS, errno.EACCES)


def publish(part: Path, final: Path) -> bool:
    """Give the finished file `part` the name `final`, on the same file system.

    The bytes are on the disk before the name is, and the name before this returns. True if this call published it;
    False if `final` was there already with the same content (an earlier attempt got this far); `part` is gone in both
    cases. Raises `FileExistsError` if `final` holds anything else, `StorageBlocked` for a full or read-only disk.
    """
    with storage_errors(final.parent):
        _sync_file(part)
        make_folder(final.parent)
        try:
            os.link(part, final)  # unlike a rename, a link never replaces
        except FileExistsError:
            return _already_there(part, final)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
                raise
            if not _claim_and_rename(part, final):
                return _already_there(part, final)
        part.unlink(missing_ok=True)
        sync_dir(final.parent)
    return True


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`, replacing what is there: a reader sees the old or the new content, never a mixture.

    Raises `StorageBlocked` for a full or read-only disk; the old content is then still there.
    """
    with storage_errors(path.parent):
        make_folder(path.parent)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_dir(path.parent)


@contextlib.contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Turns the operating system's 'disk full', 'over quota', 'read-only' and 'not allowed' into `StorageBlocked`."""
    try:
        yield
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        reason = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "your disk quota is used up",
                  errno.EACCES: "writing is not allowed"}
        raise StorageBlocked(f"{reason.get(error.errno, 'the disk is read-only')} ({where}). Nothing is lost: the job goes on "
                             "when there is room again.") from error


def make_folder(folder: Path) -> None:
    """Makes `folder` and what is missing above it. Each new name is durable: else a power cut takes the folder with all that is in it."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_dir(folder.parent)


def sync_dir(folder: Path) -> None:
    """Make the names in `folder` durable. Where folders cannot be opened (Windows) the system does it by itself."""
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _already_there(part: Path, final: Path) -> bool:
    """False after removing `part` if both hold the same bytes; raises `FileExistsError` if they do not."""
    if not (part.samefile(final) or filecmp.cmp(part, final, shallow=False)):
        raise FileExistsError(errno.EEXIST, "another file has that name", str(final))
    part.unlink(missing_ok=True)
    sync_dir(final.parent)
    return False


def _claim_and_rename(part: Path, final: Path) -> bool:
    """For file systems without hard links: reserve the name, then move over the empty reservation."""
    try:
        os.close(os.open(final, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    part.replace(final)
    return True
