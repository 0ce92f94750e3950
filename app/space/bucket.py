"""Clips on storage that survives a restart, while the history stays on the local disk: a bucket's mount has no locks worth the name.

    <bucket>/media/2026-11/20261120-213045_pocket_s7_ab12cd34.mp4    first
    <bucket>/media/2026-11/20261120-213045_pocket_s7_ab12cd34.webp
    <bucket>/media/2026-11/20261120-213045_pocket_s7_ab12cd34.json   last: with it the clip is there, without it is not

A file is written under its own name in one go, for such mounts rename by copying. What counts is the JSON: it names the size and the
sha256 of the video, and whoever reads checks both. No lock, no link, no SQLite is ever on the mount.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from app.history.opening import rebuild
from app.history.sidecar import PROJECTS_FILE, read_sidecar
from app.settings import Settings
from engine.digest import file_sha256
from engine.video.publish import write_atomic

log = logging.getLogger(__name__)
MARK = "stored"
"""Key of the JSON that only the bucket's copy has."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back at boot."""

    clips: int
    broken: int
    """Clips whose commit marker is there and whose video is not what it says."""


def store(media_dir: Path, bucket: Path) -> int:
    """Copies every finished clip that the bucket lacks, and every sidecar that has changed. How many clips were new. Raises OSError."""
    new = 0
    for sidecar in sorted(media_dir.glob("????-??/*.json")):
        clip = read_sidecar(media_dir, sidecar)
        video = sidecar.with_suffix(".mp4")
        if clip is None or not video.is_file():
            continue
        there = bucket / "media" / clip.file
        marker = there.with_suffix(".json")
        text = json.dumps(json.loads(sidecar.read_text()) | {MARK: {"bytes": clip.size_bytes, "sha256": clip.sha256}}, sort_keys=True)
        known = _text(marker)
        if known == text:
            continue
        if known is None:
            there.parent.mkdir(parents=True, exist_ok=True)
            for part in (video, sidecar.with_suffix(".webp")):
                if part.is_file():
                    shutil.copyfile(part, there.with_suffix(part.suffix))
            new += 1
        marker.write_text(text)  # the commit
    projects = media_dir / PROJECTS_FILE
    if projects.is_file() and _text(bucket / "media" / PROJECTS_FILE) != projects.read_text():
        shutil.copyfile(projects, bucket / "media" / PROJECTS_FILE)
    return new


def restore(settings: Settings, bucket: Path) -> Restored:
    """At boot, before anything is opened: the committed clips of the bucket onto the local disk, and the history made from them."""
    clips = broken = 0
    for marker in sorted((bucket / "media").glob("????-??/*.json")):
        target = settings.media_dir / marker.relative_to(bucket / "media")
        if target.is_file():
            continue
        said = _committed(marker)
        video = marker.with_suffix(".mp4")
        if said is None or not _whole(video, said):
            broken += 1
            log.warning("a clip in the bucket is not whole and was left there")
            continue
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in (video, marker.with_suffix(".webp")):
            if part.is_file():
                shutil.copyfile(part, target.with_suffix(part.suffix))
        recipe = {key: value for key, value in said.items() if key != MARK}
        write_atomic(target, json.dumps(recipe, ensure_ascii=False, indent=1, sort_keys=True).encode())
        clips += 1
    projects = bucket / "media" / PROJECTS_FILE
    if projects.is_file() and not (settings.media_dir / PROJECTS_FILE).exists():
        settings.media_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(projects, settings.media_dir / PROJECTS_FILE)
    if clips:
        rebuild(settings)
    return Restored(clips, broken)


def forget(bucket: Path, file: str) -> None:
    """Takes a clip out: the commit marker first."""
    there = bucket / "media" / file
    for ending in (".json", ".mp4", ".webp"):
        there.with_suffix(ending).unlink(missing_ok=True)


def _committed(marker: Path) -> dict | None:
    try:
        said = json.loads(marker.read_text())
        mark = said[MARK]
        return said if isinstance(mark["bytes"], int) and isinstance(mark["sha256"], str) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _whole(video: Path, said: dict) -> bool:
    try:
        return video.stat().st_size == said[MARK]["bytes"] and file_sha256(video) == said[MARK]["sha256"]
    except OSError:
        return False


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None
