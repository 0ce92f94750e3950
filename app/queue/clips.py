"""Publishing a clip, for every kind of job whose result is one: poster, sidecar, mp4 (atomic, in this order), then the row.

The mp4's name is a pure function of the job, so an attempt that died after publishing is found by the next one, which
then only writes the row.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from app.errors import LeaseLost
from app.history.leases import Claim
from app.history.records import Clip
from app.history.recovery import clip_at, to_trash
from app.history.sidecar import clip_file, with_real_bytes, write_sidecar
from app.queue.workplace import Attempt, Workplace
from engine.events import ClipWritten
from engine.video.publish import publish, write_atomic

log = logging.getLogger(__name__)


class ClipKind:
    """What all kinds of jobs share that end in one clip."""

    def finish_published(self, place: Workplace, claim: Claim) -> bool:
        """True when an earlier attempt had published the file already: only the row was missing."""
        final = place.settings.media_dir / clip_file(claim.job)
        if not final.exists():
            return False
        clip = clip_at(place.settings, place.store.projects, final, time.time())
        if clip is None or clip.job_id != claim.job.id:
            to_trash(place.settings, final)
            return False
        log.info("the file was already published; writing its row")
        job = claim.job
        clip = replace(clip, owner=job.owner, project_id=job.project_id, made_from=job.made_from, created_at=job.created_at)
        place.store.leases.finalize(claim, now=time.time())
        write_sidecar(place.settings.media_dir, clip)
        place.store.leases.finish(claim, clip, now=time.time())
        return True


def publish_clip(attempt: Attempt, clip: Clip, written: ClipWritten) -> None:
    """Artefacts first, then the row. A crash between any two lines leaves a state that the next attempt completes.

    Raises LeaseLost, NotAllowed (it is being cancelled), StorageBlocked, OSError.
    """
    claim, media = attempt.claim, attempt.settings.media_dir
    leases, reached = attempt.place.store.leases, attempt.place.engine.reached
    final = media / clip.file
    reached("before_finalizing")
    leases.finalize(claim, now=time.time())
    reached("finalizing")
    write_atomic(final.with_suffix(".webp"), written.poster_webp)
    reached("poster")
    write_sidecar(media, clip)
    reached("sidecar")
    if attempt.beat.lost:
        raise LeaseLost("This job was given to another worker.")
    try:
        publish(written.part, final)
    except FileExistsError:
        # A worker that was thought dead got here first. Its file is as good: same request, same seed.
        clip = with_real_bytes(media, clip)
        write_sidecar(media, clip)
    reached("published")
    leases.finish(claim, clip, now=time.time())
    reached("committed")
