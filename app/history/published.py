"""Clips that their owners have published: whoever asks, whosever they are. What is in the trash or has no file is not among them."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Connection, func, select, update

from app.errors import NotAllowed, NotFound
from app.history.records import Clip, ClipPage, ClipQuery
from app.history.rows import clip_of, clip_row, locked_clip_row, public_text
from app.history.schema import clips
from app.history.substring import holds, words_of
from app.history.transactions import Transactions

UNPUBLISHED = {"published_at": None, "public_search": None}
"""The columns of a clip that nobody but its owner sees."""


class Published:
    """The public part of the shelf."""

    def __init__(self, database: Transactions) -> None:
        self._db = database

    def page(self, query: ClipQuery) -> ClipPage:
        """Newest first by when they were published. Of `query` the words, the model and the page count; names and projects are not
        looked at, for they are the owners' own."""
        size = min(max(query.page_size, 1), 200)
        where = _public()
        if query.model is not None:
            where.append(clips.c.model == query.model)
        where += [holds(clips.c.public_search, word) for word in words_of(query.words)]

        def work(c: Connection) -> ClipPage:
            total = c.execute(select(func.count()).select_from(clips).where(*where)).scalar_one()
            pages = max(1, -(-total // size))
            page = min(max(query.page, 1), pages)
            rows = c.execute(select(clips).where(*where).order_by(clips.c.published_at.desc(), clips.c.id.desc())
                             .limit(size).offset((page - 1) * size))
            return ClipPage(clips=tuple(clip_of(row) for row in rows), page=page, pages=pages, total=total)
        return self._db.read(work)

    def get(self, clip_id: str) -> Clip:
        """Raises NotFound, for an unpublished one as for one that never was."""
        query = select(clips).where(clips.c.id == clip_id, *_public())
        row = self._db.read(lambda c: c.execute(query).one_or_none())
        if row is None:
            raise NotFound("There is no such clip. It may not be published any more.")
        return clip_of(row)

    def publish(self, clip_id: str, *, owner: str, now: float) -> Clip:
        """Published already, it keeps its time. Raises NotFound, NotAllowed (in the trash, or its file is missing)."""
        def work(c: Connection) -> Clip:
            row = locked_clip_row(c, clip_id, owner)
            if row.trashed_at is not None or row.missing:
                raise NotAllowed("This clip is in the trash; put it back before you publish it." if row.trashed_at is not None else
                                 "The file of this clip is missing, so there is nothing to publish.")
            if row.published_at is None:
                c.execute(update(clips).where(clips.c.id == clip_id).values(
                    published_at=now, public_search=public_text(row.prompt), sidecar_stale=1))
            return clip_of(clip_row(c, clip_id))
        return self._db.write(work)

    def unpublish(self, clip_id: str, *, owner: str | None = None) -> Clip:
        """`owner`: None for whoever's it is. What is not published stays so. Raises NotFound."""
        def work(c: Connection) -> Clip:
            locked_clip_row(c, clip_id, owner)
            c.execute(update(clips).where(clips.c.id == clip_id).values(sidecar_stale=1, **UNPUBLISHED))
            return clip_of(clip_row(c, clip_id))
        return self._db.write(work)

    def withdraw(self, clip_ids: Iterable[str]) -> None:
        """Clips whose files were deleted for good."""
        ids = list(clip_ids)
        self._db.write(lambda c: c.execute(update(clips).where(clips.c.id.in_(ids)).values(**UNPUBLISHED)))


def _public() -> list[ColumnElement[bool]]:
    return [clips.c.published_at.is_not(None), clips.c.trashed_at.is_(None), clips.c.missing == 0]
