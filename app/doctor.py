"""`sprocket doctor`: looks at this machine the way a job will, and says what is missing and what to do.

Imports neither torch nor diffusers: versions are read from the installed packages' metadata.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.settings import Settings
from engine.errors import InvalidRequest, SprocketError
from engine.hardware import detect
from engine.models.catalogue import installed
from engine.speed import KERNELS, choose_kernel, why_not

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "gradio", "sqlalchemy", "av", "huggingface_hub")
GIB = 2**30
LOW_DISK = 2 * GIB
BUSY_SECONDS = 5.0
ASK_TORCH = "import sys, torch; torch.cuda.get_device_properties(sys.argv[1]); torch.zeros(1, device=sys.argv[1]).item()"
"""Run in a process of its own: whether torch can use a GPU that the driver tells of."""
ASK_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination. `ok` is None for plain information."""

    what: str
    ok: bool | None
    detail: str


def examine(settings: Settings) -> list[Finding]:
    """All findings, in the order a person wants to read them. Changes nothing on disk but that it makes the data
    folder where there is none, writes a probe file there and removes it, and takes back what a killed writer left half done in the history,
    as whoever opens it next would."""
    return [*_software(), _hardware(), _attention(settings), *_data_dir(settings), _database(settings), _encoder(), *_models(settings)]


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """`{"ok": ..., "findings": [...]}`; ok is False when any finding is bad."""
    return {"ok": all(f.ok is not False for f in findings), "findings": [asdict(f) for f in findings]}


def _software() -> list[Finding]:
    python_fits = (3, 10) <= sys.version_info[:2] <= (3, 12)
    found = [Finding("python", python_fits, platform.python_version() + ("" if python_fits else ": use 3.10, 3.11 or 3.12"))]
    for name in PACKAGES:
        try:
            found.append(Finding(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, False, "is not installed: run `make install` again"))
    return found


def _hardware() -> Finding:
    machine = detect()
    words = (f"{machine.name} ({machine.device}), {machine.total_bytes / GIB:.1f} GiB memory, {machine.free_bytes / GIB:.1f} GiB free, "
             f"{machine.cores} cores, {'bfloat16' if machine.bf16 else 'float32'}")
    if machine.device == "cpu" or not (trouble := _refused(machine.device)):
        return Finding("device", True, words)
    return Finding("device", False, f"{words}: torch cannot use it ({trouble}). Update the NVIDIA driver, or install a torch that fits it; "
                                    "jobs with --device cpu run without it.")


def _refused(device: str) -> str:
    """Why torch cannot use this GPU, in its own last words; '' where it can."""
    try:
        asked = subprocess.run([sys.executable, "-c", ASK_TORCH, device], capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"it gave no answer for {ASK_SECONDS:.0f} s"
    if not asked.returncode:
        return ""
    return (asked.stderr.strip().splitlines() or [f"it ended with code {asked.returncode}"])[-1][:240]


def _attention(settings: Settings) -> Finding:
    """Which kernel attention would run in, of heads of 64 channels as the published models have, and why not in the others."""
    machine = detect()
    compute = "bf16" if machine.bf16 else "fp32"
    reasons = {name: why_not(name, machine, head=64, compute=compute) for name in KERNELS}
    here = ", ".join(name for name, reason in reasons.items() if not reason)
    others = "; ".join(f"not {', '.join(name for name in KERNELS if reasons[name] == reason)}: {reason}"
                       for reason in dict.fromkeys(reasons.values()) if reason)
    try:
        chosen = choose_kernel(settings.attention, machine, head=64, compute=compute)
    except InvalidRequest as error:
        return Finding("attention", False, error.message)
    return Finding("attention", True, f"{chosen} (setting: {settings.attention}); here are {here}{f'; {others}' if others else ''}")


def _data_dir(settings: Settings) -> list[Finding]:
    folder = settings.data_dir
    probe = folder / ".doctor-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        return [Finding("data folder", False, f"{folder} cannot be written ({error.strerror}). Free space, change its "
                                              "permissions, or choose another with --data-dir.")]
    free = shutil.disk_usage(folder).free
    low = free < LOW_DISK
    return [Finding("data folder", True, str(folder)),
            Finding("disk", not low, f"{free / GIB:.1f} GiB free" + (": free some; jobs wait as 'blocked' when it is full" if low else ""))]


def _database(settings: Settings) -> Finding:
    if settings.on_server:
        return _server(settings)
    path: Path = settings.db_path
    if not path.exists():
        return Finding("database", None, "none yet; it is made with the first job")
    answer = _quick_check(path, "ro")
    if "readonly database" in answer:  # a writer was killed in mid-transaction: what it began must be taken back to read the rest
        answer = _quick_check(path, "rw")
    if answer == "ok":
        return Finding("database", True, f"{path.name}, SQLite {sqlite3.sqlite_version}")
    if "locked" in answer:
        return Finding("database", None, f"{path} is busy ({answer}): another process is writing. Try again.")
    if "readonly database" in answer or "unable to open" in answer:
        return Finding("database", False, f"{path} cannot be written ({answer}). Make the file and its folder yours to write.")
    return Finding("database", False, f"{path} is damaged ({answer}). `sprocket history rebuild` makes it again from the clips.")


def _quick_check(path: Path, mode: str) -> str:
    """What SQLite says of the file, opened as `mode` (ro, rw); its error's words where it cannot be read."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_SECONDS)) as connection:
            return str(connection.execute("PRAGMA quick_check").fetchone()[0])
    except sqlite3.DatabaseError as error:
        return str(error)


def _server(settings: Settings) -> Finding:
    from app.history.postgres import PostgresDatabase

    try:
        database = PostgresDatabase(settings.database.get_secret_value())
        try:
            database.check_clock(settings.lease_seconds / 3)
            return Finding("database", True, f"{database.name}, PostgreSQL {database.version()}")
        finally:
            database.close()
    except SprocketError as error:
        return Finding("database", False, str(error))


def _encoder() -> Finding:
    import av
    usable = "libx264" in av.codecs_available
    return Finding("video encoder", usable, f"PyAV {av.__version__}" + ("" if usable else " has no H.264: reinstall the 'av' package"))


def _models(settings: Settings) -> list[Finding]:
    try:
        specs = installed(models_dir=settings.models_dir)
    except SprocketError as error:
        return [Finding("models", False, str(error))]
    return [Finding("models", bool(specs), ", ".join(s.name for s in specs) or "none: assets/pocket is missing from this copy of Sprocket")]
