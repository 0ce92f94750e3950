"""The shelf: projects and finished clips."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, case, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from app.checked import checked_id
from app.errors import NotFound
from app.history.ids import new_id
from app.history.published import UNPUBLISHED
from app.history.records import Clip, ClipPage, ClipQuery, Project
from app.history.rows import clip_of, clip_row, clip_values, project_of, search_text
from app.history.schema import clips, projects
from app.history.substring import holds, words_of
from app.history.transactions import Transactions
from engine.errors import InvalidRequest
from engine.interpolate.filling import SAME_RATE
from engine.interpolate.recipe import ALSO_FROM
from engine.lines import one_line

DEFAULT_PROJECT = "My videos"
MAX_NAME_CHARS = 120


class Projects:
    """Named shelves. Every owner always has `DEFAULT_PROJECT`."""

    def __init__(self, database: Transactions) -> None:
        self._db = database

    def list(self, *, owner: str, now: float) -> tuple[Project, ...]:
        """The default project first, then by age. `clips` counts those not in the trash."""
        self.default(owner=owner, now=now)
        count = (select(func.count()).where(clips.c.project_id == projects.c.id, clips.c.trashed_at.is_(None))
                 .scalar_subquery().label("clips"))
        query = select(projects, count).where(projects.c.owner == owner).order_by(projects.c.created_at, projects.c.id)
        return self._db.read(lambda c: tuple(project_of(row) for row in c.execute(query)))

    def chosen(self, project_id: str | None, *, owner: str, now: float) -> Project:
        """Where new clips go: this one, or the first where none is named. Raises NotFound."""
        return self.default(owner=owner, now=now) if project_id is None else self.get(checked_id(project_id, "project"), owner=owner)

    def default(self, *, owner: str, now: float) -> Project:
        """The owner's oldest project; made at the first call."""
        query = select(projects).where(projects.c.owner == owner).order_by(projects.c.created_at, projects.c.id).limit(1)
        row = self._db.read(lambda c: c.execute(query).one_or_none())
        if row is not None:
            return project_of(row)

        def work(c: Connection) -> Project:
            row = c.execute(query).one_or_none()
            if row is None:
                c.execute(insert(projects).values(id=new_id(now), owner=owner, name=DEFAULT_PROJECT, created_at=now))
                row = c.execute(query).one()
            return project_of(row)
        return self._db.write(work)

    def get(self, project_id: str, *, owner: str) -> Project:
        """Raises NotFound."""
        return self._db.read(lambda c: project_of(_project_row(c, project_id, owner)))

    def create(self, name: str, *, owner: str, now: float, project_id: str | None = None) -> Project:
        """Raises InvalidRequest for a bad or taken name."""
        clean = checked_name(name)

        def work(c: Connection) -> Project:
            _refuse_taken(c, owner, clean, None)
            identity = project_id or new_id(now)
            c.execute(insert(projects).values(id=identity, owner=owner, name=clean, created_at=now))
            return project_of(_project_row(c, identity, owner))
        return self._db.write(work)

    def rename(self, project_id: str, name: str, *, owner: str) -> Project:
        """Raises NotFound, InvalidRequest."""
        clean = checked_name(name)

        def work(c: Connection) -> Project:
            _project_row(c, project_id, owner)
            _refuse_taken(c, owner, clean, project_id)
            c.execute(update(projects).where(projects.c.id == project_id).values(name=clean))
            return project_of(_project_row(c, project_id, owner))
        return self._db.write(work)

    def every(self) -> tuple[tuple[str, Project], ...]:
        """(owner, project) of all owners, for the copy beside the clips."""
        query = select(projects).order_by(projects.c.created_at, projects.c.id)
        return self._db.read(lambda c: tuple((row.owner, project_of(row)) for row in c.execute(query)))

    def restore(self, project: Project, *, owner: str) -> str:
        """Puts a project back that the files know; the id of the project of that id, else of that name, whichever is there."""
        def work(c: Connection) -> str:
            found = c.execute(select(projects.c.id).where(projects.c.owner == owner).where(
                (projects.c.id == project.id) | (projects.c.name == project.name))
                .order_by(case((projects.c.id == project.id, 0), else_=1))).scalar()
            if found is not None:
                return str(found)
            try:
                with c.begin_nested():
                    c.execute(insert(projects).values(id=project.id, owner=owner, name=project.name,
                                                      created_at=project.created_at))
                return project.id
            except IntegrityError:  # the id belongs to another owner; the sidecar was copied or edited
                fresh = new_id(project.created_at)
                c.execute(insert(projects).values(id=fresh, owner=owner, name=project.name, created_at=project.created_at))
                return fresh
        return self._db.write(work)


class Clips:
    """Finished clips. Changing one marks its sidecar as stale until `sidecar_written`."""

    def __init__(self, database: Transactions) -> None:
        self._db = database

    def page(self, query: ClipQuery, *, owner: str) -> ClipPage:
        """Newest first. A page beyond the last gives the last."""
        size = min(max(query.page_size, 1), 200)
        where = _conditions(query, owner)

        def work(c: Connection) -> ClipPage:
            total = c.execute(select(func.count()).select_from(clips).where(*where)).scalar_one()
            pages = max(1, -(-total // size))
            page = min(max(query.page, 1), pages)
            rows = c.execute(select(clips).where(*where).order_by(clips.c.created_at.desc(), clips.c.id.desc())
                             .limit(size).offset((page - 1) * size))
            return ClipPage(clips=tuple(clip_of(row) for row in rows), page=page, pages=pages, total=total)
        return self._db.read(work)

    def get(self, clip_id: str, *, owner: str | None = None) -> Clip:
        """Raises NotFound."""
        return self._db.read(lambda c: clip_of(clip_row(c, clip_id, owner)))

    def lineage(self, clip_id: str, *, owner: str) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
        """(ancestors, nearest first; clips made from this one, oldest first)."""
        def work(c: Connection) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
            clip = clip_of(clip_row(c, clip_id, owner))
            parents: list[Clip] = []
            seen = {clip.id}
            above = list(clip.parents)
            while above:  # nearest first
                one = above.pop(0)
                if one in seen:  # files are untrusted: lineage may be a circle
                    continue
                seen.add(one)
                row = c.execute(select(clips).where(clips.c.id == one, clips.c.owner == owner)).one_or_none()
                if row is not None:
                    parents.append(clip_of(row))
                    above.extend(parents[-1].parents)
            second = clips.c.recipe.contains(f'"{ALSO_FROM}": "{clip_id}"')  # as `rows.clip_values` writes it; seldom asked, no index
            rows = c.execute(select(clips).where(or_(clips.c.made_from == clip_id, second), clips.c.owner == owner)
                             .order_by(clips.c.created_at, clips.c.id))
            return tuple(parents), tuple(child for row in rows if clip_id in (child := clip_of(row)).parents)
        return self._db.read(work)

    def rename(self, clip_id: str, name: str, *, owner: str) -> Clip:
        """Raises NotFound, InvalidRequest."""
        clean = checked_name(name)

        def work(c: Connection) -> Clip:
            row = clip_row(c, clip_id, owner)
            return _change(c, clip_id, name=clean, search=search_text(row.prompt, clean))
        return self._db.write(work)

    def set_favourite(self, clip_id: str, favourite: bool, *, owner: str) -> Clip:
        return self._changed(clip_id, owner, favourite=int(favourite))

    def set_trashed(self, clip_id: str, at: float | None, *, owner: str) -> Clip:
        """What is put into the trash is not published any more, and not again when it is put back."""
        return self._changed(clip_id, owner, trashed_at=at, **({} if at is None else UNPUBLISHED))

    def set_project(self, clip_id: str, project_id: str, *, owner: str) -> Clip:
        def work(c: Connection) -> Clip:
            clip_row(c, clip_id, owner)
            _project_row(c, project_id, owner)
            return _change(c, clip_id, project_id=project_id)
        return self._db.write(work)

    def retell(self, clip: Clip) -> None:
        """The row of this clip says what it says (recovery)."""
        values = {name: value for name, value in clip_values(clip).items() if name != "id"}
        self._db.write(lambda c: _change(c, clip.id, **values))

    def _changed(self, clip_id: str, owner: str, **values: Any) -> Clip:
        def work(c: Connection) -> Clip:
            clip_row(c, clip_id, owner)
            return _change(c, clip_id, **values)
        return self._db.write(work)

    def set_missing(self, clip_ids: Iterable[str], missing: bool) -> None:
        """In one transaction, however many: a disk that was not mounted may take all of them away at once."""
        rows = [{"which": clip_id, "missing": int(missing)} for clip_id in clip_ids]
        if rows:
            self._db.write(lambda c: c.execute(update(clips).where(clips.c.id == bindparam("which")), rows))

    def files(self) -> tuple[tuple[str, str, bool], ...]:
        """(clip id, file, marked as missing) of every clip there is."""
        query = select(clips.c.id, clips.c.file, clips.c.missing)
        return self._db.read(lambda c: tuple((row.id, row.file, bool(row.missing)) for row in c.execute(query)))

    def has_file(self, file: str) -> bool:
        """Is there a clip with this file, as of now?"""
        query = select(clips.c.id).where(clips.c.file == file)
        return self._db.read(lambda c: c.execute(query).first()) is not None

    def stale(self) -> tuple[Clip, ...]:
        """Clips whose sidecar does not yet say what the row says."""
        query = select(clips).where(clips.c.sidecar_stale == 1)
        return self._db.read(lambda c: tuple(clip_of(row) for row in c.execute(query)))

    def sidecar_written(self, clip: Clip) -> None:
        """The sidecar holds `clip`. Where the row has changed since, a newer one may have been written over: it is written again."""
        def work(c: Connection) -> None:
            row = c.execute(select(clips).where(clips.c.id == clip.id).with_for_update()).one_or_none()
            if row is not None:
                c.execute(update(clips).where(clips.c.id == clip.id).values(sidecar_stale=int(clip_of(row) != clip)))
        self._db.write(work)

    def recent(self, model: str, *, limit: int) -> tuple[Clip, ...]:
        """The newest clips of one model, of all owners, oldest first: what forecasts are made from."""
        query = select(clips).where(clips.c.model == model).order_by(clips.c.created_at.desc()).limit(limit)
        return self._db.read(lambda c: tuple(clip_of(row) for row in c.execute(query)))[::-1]


def checked_name(name: object) -> str:
    """A title for a clip or a project. Raises InvalidRequest."""
    if not isinstance(name, str):
        raise InvalidRequest("name", f"must be text, not {type(name).__name__}.")
    if any(0xD800 <= ord(char) <= 0xDFFF for char in name):
        raise InvalidRequest("name", "holds half of a character (a lone surrogate). Type it again.")
    clean = one_line(name)
    if not clean:
        raise InvalidRequest("name", "is empty. Type a few letters.")
    if len(clean) > MAX_NAME_CHARS:
        raise InvalidRequest("name", f"has {len(clean):,} characters; the limit is {MAX_NAME_CHARS}. Shorten it.")
    return clean


def _project_row(c: Connection, project_id: str, owner: str) -> Any:
    row = c.execute(select(projects).where(projects.c.id == project_id, projects.c.owner == owner)).one_or_none()
    if row is None:
        raise NotFound("There is no such project.")
    return row


def _refuse_taken(c: Connection, owner: str, name: str, but: str | None) -> None:
    rows = c.execute(select(projects.c.id, projects.c.name).where(projects.c.owner == owner))
    if any(row.name.casefold() == name.casefold() and row.id != but for row in rows):
        raise InvalidRequest("name", f"{name!r} is the name of another project. Choose a different one.")


def _change(c: Connection, clip_id: str, **values: Any) -> Clip:
    c.execute(update(clips).where(clips.c.id == clip_id).values(sidecar_stale=1, **values))
    return clip_of(clip_row(c, clip_id, None))


def _conditions(query: ClipQuery, owner: str) -> list[ColumnElement[bool]]:
    where = [clips.c.owner == owner,
             clips.c.trashed_at.is_not(None) if query.trashed else clips.c.trashed_at.is_(None)]
    if query.project_id is not None:
        where.append(clips.c.project_id == query.project_id)
    if query.model is not None:
        where.append(clips.c.model == query.model)
    if query.favourites_only:
        where.append(clips.c.favourite == 1)
    if query.shape is not None:
        where += [clips.c.width == query.shape[0], clips.c.height == query.shape[1]]
    if query.fps is not None:
        where.append(func.abs(clips.c.fps - query.fps) < SAME_RATE)
    where += [holds(clips.c.search, word) for word in words_of(query.words)]
    return where
