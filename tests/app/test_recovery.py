"""Opening what a crash, an older version or a bad disk left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.doctor import examine
from app.errors import DataDirBusy, HistoryDamaged, NotFound, SchemaTooNew
from app.history.database import Database, journal_mode
from app.history.migrate import current, upgrade
from app.history.opening import back_up, newest_backups, open_store, rebuild
from app.history.records import Clip, ClipQuery, Job, JobState
from app.history.recovery import at_work, recover
from app.history.schema import HEAD, metadata
from app.history.sidecar import read_projects
from app.lock import FileLock
from app.queue.process import this_process
from app.queue.supervisor import Supervisor
from app.settings import Settings
from app.studio import Studio, open_studio

Work = Callable[[], Job | None]


def shelf(studio: Studio, work_once: Work) -> tuple[Clip, Clip]:
    """Two clips with everything a person can change about them: a favourite in a project, and its trashed remix."""
    project = studio.create_project("Holiday")
    studio.submit({"prompt": "one", "seed": 1}, project_id=project.id)
    work_once()
    first = studio.clips().clips[0]
    studio.submit({"prompt": "two", "seed": 2}, made_from=first.id)
    work_once()
    second = studio.clips(ClipQuery(words="two")).clips[0]
    studio.set_favourite(first.id)
    studio.rename(first.id, "The best")
    studio.store.published.publish(first.id, owner="local", now=5.0)
    studio.trash(second.id)
    return studio.clip(first.id), studio.clip(second.id)


def spoil(path: Path) -> None:
    """Flips bytes in the middle of the file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 3 : len(data) // 3 * 2] = b"\xa5" * (len(data) // 3)
    path.write_bytes(data)


def test_the_history_is_rebuilt_from_the_files_alone(studio: Studio, work_once: Work) -> None:
    clips = shelf(studio, work_once)
    waiting = studio.submit({"prompt": "waits"})
    projects = studio.projects()
    studio.close()
    assert rebuild(studio.settings) == 2
    again = open_studio(studio.settings)
    assert tuple(again.clip(clip.id) for clip in clips) == clips
    assert [(p.id, p.name, p.clips) for p in again.projects()] == [(p.id, p.name, p.clips) for p in projects]
    assert again.lineage(clips[1].id)[0] == (clips[0],)
    assert again.job(waiting.id) == waiting  # carried over from the old history
    assert len(list(studio.settings.data_dir.glob("history.before-rebuild-*.db"))) == 1
    again.close()


def test_no_rebuild_beside_a_process_that_makes_a_clip(studio: Studio) -> None:
    reserved = studio.submit({"prompt": "one"}, reserve=True)
    with pytest.raises(DataDirBusy, match="being made"):
        rebuild(studio.settings)
    claim = studio.store.leases.claim(this_process(), now=time.time(), only=reserved.id)
    assert claim is not None
    with pytest.raises(DataDirBusy, match="being made"):
        rebuild(studio.settings)
    studio.store.leases.release(claim, now=time.time(), why="")
    dead, elsewhere = (dataclasses.replace(this_process(), **other) for other in ({"started": 1}, {"host": "another"}))
    assert studio.store.leases.claim(dead, now=time.time()) is not None
    assert not at_work(studio.settings.db_path, time.time())
    studio.submit({"prompt": "two"})
    assert studio.store.leases.claim(elsewhere, now=time.time()) is not None
    assert [at_work(studio.settings.db_path, time.time() + later) for later in (0, 1e6)] == [True, False]


def test_one_unsound_row_costs_no_other_project_its_name(studio: Studio) -> None:
    studio.create_project("Films")
    path = studio.settings.media_dir / "projects.json"
    rows, known = json.loads(path.read_text()), read_projects(studio.settings.media_dir)
    assert "Films" in {project.name for _owner, project in known}
    path.write_text(json.dumps([7, None, rows[0] | {"name": ""}, rows[0] | {"created_at": "x"}, {"id": rows[0]["id"]}, *rows]))
    assert read_projects(studio.settings.media_dir) == known
    for nonsense in ("7", "{}", "[", "null"):
        path.write_text(nonsense)
        assert read_projects(studio.settings.media_dir) == ()


def test_a_clip_whose_sidecar_is_damaged_stays_its_maker_s(studio: Studio, work_once: Work) -> None:
    job = studio.submit({"prompt": "one", "seed": 1}, owner="user:a")
    work_once()
    clip, = studio.clips(owner="user:a").clips
    studio.clip_path(clip.id, owner="user:a").with_suffix(".json").write_text("{")
    studio.close()
    assert rebuild(studio.settings) == 1
    with contextlib.closing(open_studio(studio.settings)) as again:
        found = again.clip(clip.id, owner="user:a")
        assert (found.owner, found.project_id, again.clips().clips) == ("user:a", job.project_id, ())


def test_a_project_is_put_back_by_its_id_before_its_name(studio: Studio) -> None:
    for owner, names in (("local", ("Films", "Holiday")), ("user:a", ("Holiday", "Films"))):
        made = {name: studio.store.projects.create(name, owner=owner, now=time.time()) for name in names}
        old = dataclasses.replace(made["Holiday"], name="Films")  # it was called so when the list was written
        assert studio.store.projects.restore(old, owner=owner) == made["Holiday"].id
        gone = dataclasses.replace(made["Films"], id="0" * 32)
        assert studio.store.projects.restore(gone, owner=owner) == made["Films"].id


def test_sidecars_lost_the_mp4s_tell_the_story(studio: Studio, work_once: Work) -> None:
    first, _second = shelf(studio, work_once)
    studio.close()
    for path in studio.settings.media_dir.glob("*/*.json"):
        path.unlink()
    studio.settings.db_path.unlink()
    assert rebuild(studio.settings) == 2
    again = open_studio(studio.settings)
    found = again.clip(first.id)
    assert (found.prompt, found.seed, found.sha256, found.frames) == ("one", 1, first.sha256, 9)
    again.close()


def test_a_history_whose_writer_was_killed_is_not_damaged_and_keeps_its_jobs(tmp_path: Path) -> None:
    """What a kill in mid-transaction leaves: half the change in the file, and beside it the journal that takes it back."""
    settings = Settings(data_dir=tmp_path / "a #1 folder?", engine="tests.fakes:FakeEngine", min_free_bytes=0)
    with contextlib.closing(open_studio(settings)) as studio:
        waiting = studio.submit({"prompt": "waits"})
    path, journal = settings.db_path, Path(f"{settings.db_path}-journal")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        for line in ("PRAGMA journal_mode=TRUNCATE", "PRAGMA cache_size=1", "BEGIN IMMEDIATE", "UPDATE jobs SET state = 'failed'",
                     "CREATE TABLE big AS SELECT zeroblob(500000) AS b"):
            writer.execute(line)
        left = path.read_bytes(), journal.read_bytes()
    assert settings.db_path.read_bytes() != left[0]  # a part of it was on the disk

    def killed() -> None:
        path.write_bytes(left[0])
        journal.write_bytes(left[1])

    killed()
    found, = (each for each in examine(settings) if each.what == "database")
    assert found.ok, found.detail
    killed()
    assert rebuild(settings) == 0
    with contextlib.closing(open_studio(settings)) as again:
        assert again.job(waiting.id) == waiting


def test_a_busy_history_is_not_called_damaged(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.doctor.BUSY_SECONDS", 0.0)
    with contextlib.closing(sqlite3.connect(studio.settings.db_path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=TRUNCATE")
        writer.execute("BEGIN EXCLUSIVE")
        found, = (each for each in examine(studio.settings) if each.what == "database")
    assert found.ok is None and "busy" in found.detail, found.detail


@pytest.mark.parametrize("spoiled", ["middle", "text", "header", "cut"])
def test_a_damaged_history_is_put_aside_and_made_again(studio: Studio, work_once: Work, spoiled: str) -> None:
    clips = shelf(studio, work_once)
    studio.close()
    path = studio.settings.db_path
    if spoiled == "middle":
        spoil(path)
    elif spoiled == "text":
        path.write_text("this is not a database" * 500)
    elif spoiled == "header":
        path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])
    else:
        path.write_bytes(path.read_bytes()[:5000])
    damaged = path.read_bytes()
    with pytest.raises(HistoryDamaged):
        open_store(studio.settings, repair=False)
    again = open_studio(studio.settings)
    assert tuple(again.clip(clip.id) for clip in clips) == clips
    assert "2 clips found there" in str(again.status().recovery_message)
    aside, = studio.settings.data_dir.glob("history.damaged-*.db")
    assert aside.read_bytes() == damaged and aside.name in str(again.status().recovery_message)
    again.dismiss_recovery_message()
    assert again.status().recovery_message is None
    assert again.submit({"prompt": "goes on"}).state is JobState.QUEUED
    again.close()


def test_the_newest_backup_comes_first_and_files_fill_it_up(studio: Studio, work_once: Work) -> None:
    waiting = studio.submit({"prompt": "waits"})
    paused = studio.pause(waiting.id)
    assert back_up(studio.settings, studio.store, now=time.time()) is not None
    assert back_up(studio.settings, studio.store, now=time.time()) is None  # one a day
    clips = shelf(studio, work_once)
    studio.close()
    studio.settings.db_path.write_text("gone" * 5000)
    again = open_studio(studio.settings)
    assert again.job(waiting.id) == paused
    assert tuple(again.clip(clip.id) for clip in clips) == clips
    again.close()
    studio.settings.db_path.unlink()  # as if a repair had been cut short after moving the file aside
    again = open_studio(studio.settings)
    assert again.job(waiting.id) == paused and again.clip(clips[0].id) == clips[0]
    again.close()


def spoil_an_index(path: Path) -> None:
    """Damage that leaves every table readable."""
    with contextlib.closing(sqlite3.connect(path)) as raw:
        root, = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ix_clips_model_created'").fetchone()
        size, = raw.execute("PRAGMA page_size").fetchone()
    data = bytearray(path.read_bytes())
    data[(root - 1) * size : root * size] = b"\xa5" * size
    path.write_bytes(data)


def test_a_repair_from_a_copy_takes_nothing_back(studio: Studio, work_once: Work) -> None:
    """What happened since the copy: unpublished, renamed, put into the trash, cancelled, failed."""
    first, second = shelf(studio, work_once)
    studio.untrash(second.id)
    cancelled, failed, running = (studio.submit({"prompt": word}) for word in ("cancelled", "failed", "goes on"))
    assert back_up(studio.settings, studio.store, now=time.time()) is not None
    sidecar = studio.clip_path(first.id).with_suffix(".json")
    shutil.copy(sidecar, sidecar.with_name("29991231-000000_x_s1_00000001.json"))  # by hand, and older than what follows
    studio.store.published.unpublish(first.id)
    studio.rename(first.id, "Another name")
    studio.rename_project(first.project_id, "Winter")
    studio.move_clip(second.id, studio.create_project("Holiday").id)
    studio.trash(second.id)
    studio.cancel(cancelled.id)
    claim = studio.store.leases.claim(this_process(), now=time.time(), only=failed.id)
    assert claim is not None
    studio.store.leases.fail(claim, now=time.time(), code="test", message="no")
    wanted = [studio.clip(first.id), studio.clip(second.id)]
    jobs = [studio.job(job.id) for job in (cancelled, failed, running)]
    events = [studio.store.jobs.events(job.id, owner="local") for job in jobs]
    projects = studio.projects()
    studio.close()
    spoil_an_index(studio.settings.db_path)
    again = open_studio(studio.settings)
    assert "from the copy daily-" in str(again.status().recovery_message)
    assert [again.clip(first.id), again.clip(second.id)] == wanted
    assert [again.job(job.id) for job in jobs] == jobs and again.projects() == projects
    assert [again.store.jobs.events(job.id, owner="local") for job in jobs] == events
    again.close()


def test_a_sidecar_that_was_never_written_does_not_overrule_the_copy(studio: Studio, work_once: Work) -> None:
    first, _second = shelf(studio, work_once)
    sidecar = studio.clip_path(first.id).with_suffix(".json")
    studio.store.clips.rename(first.id, "Only in the history", owner="local")
    assert back_up(studio.settings, studio.store, now=time.time()) is not None
    named = studio.clip(first.id)
    studio.close()
    os.utime(sidecar, (time.time() - 60.0,) * 2)
    studio.settings.db_path.write_text("gone" * 5000)
    again = open_studio(studio.settings)
    assert again.clip(first.id) == named
    again.close()


@pytest.mark.parametrize("why", ["repair", "rebuild"])
def test_a_death_while_the_history_is_made_again_loses_nothing(studio: Studio, work_once: Work, monkeypatch: pytest.MonkeyPatch,
                                                               why: str) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> int:
        raise Killed

    shelf(studio, work_once)
    assert back_up(studio.settings, studio.store, now=time.time()) is not None
    waiting = studio.submit({"prompt": "waits"})
    studio.close()
    if why == "repair":
        spoil_an_index(studio.settings.db_path)
    for place in ("_rename", "carry_jobs", "restore_files"):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(f"app.history.opening.{place}", killed)
            (open_studio if why == "repair" or place == "restore_files" else rebuild)(studio.settings)
    with pytest.raises(HistoryDamaged, match="cut short"):
        open_store(studio.settings, repair=False)
    again = open_studio(studio.settings)
    assert again.job(waiting.id) == waiting
    again.close()
    open_store(studio.settings, repair=False).close()  # once, and no more


def test_a_rebuild_keeps_what_no_sidecar_tells_yet(studio: Studio, work_once: Work) -> None:
    first, second = shelf(studio, work_once)
    studio.store.clips.rename(first.id, "Only in the history", owner="local")
    studio.store.published.unpublish(first.id)
    studio.store.clips.set_project(second.id, studio.create_project("New").id, owner="local")
    studio.set_devices("each")
    told = studio.clip(first.id), studio.clip(second.id)
    studio.close()
    assert rebuild(studio.settings) == 2
    again = open_studio(studio.settings)
    assert (again.clip(first.id), again.clip(second.id)) == told and again.devices() == "each"
    again.close()


def test_a_copy_dated_in_the_future_ends_no_copies(studio: Studio) -> None:
    now = time.time()
    ahead = back_up(studio.settings, studio.store, now=now + 9e6)
    assert ahead is not None
    os.utime(ahead, (now + 9e6,) * 2)
    assert newest_backups(studio.settings) == [ahead]
    today = back_up(studio.settings, studio.store, now=now)
    assert today is not None and back_up(studio.settings, studio.store, now=time.time()) is None
    assert newest_backups(studio.settings) == [today, ahead]
    os.utime(today, (now - 2 * 86400,) * 2)
    settings = studio.settings.model_copy(update={"backups": 2})
    third = back_up(settings, studio.store, now=now + 1)
    assert newest_backups(settings) == [third, today]  # the one whose date is wrong goes first


def test_a_stray_file_goes_to_the_trash_of_another_disk(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_disk(source: object, target: object, *_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))

    month = studio.settings.media_dir / "2020-01"
    month.mkdir()
    stray = month / "20200101-000000_x_s1_00000000.mp4"
    stray.write_bytes(b"nothing we know")
    monkeypatch.setattr("os.rename", other_disk)
    monkeypatch.setattr("pathlib.Path.rename", other_disk)
    recover(studio.settings, studio.store)
    assert not stray.exists() and (studio.settings.trash_dir / stray.name).read_bytes() == b"nothing we know"


def test_a_file_that_cannot_be_moved_does_not_keep_a_server_from_starting(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    month = studio.settings.media_dir / "2020-01"
    month.mkdir()
    strays = [month / f"20200101-000000_x_s1_0000000{number}.mp4" for number in range(2)]
    for stray in strays:
        stray.write_bytes(b"nothing we know")

    def rename(source: Path, target: Path) -> None:
        if source == strays[0]:
            raise PermissionError(errno.EPERM, "Operation not permitted", str(source))
        source.replace(target)

    monkeypatch.setattr("pathlib.Path.rename", rename)
    recover(studio.settings, studio.store)
    assert [stray.exists() for stray in strays] == [True, False]


def test_a_damaged_history_is_not_replaced_under_a_running_server(studio: Studio) -> None:
    studio.close()
    studio.settings.db_path.write_text("broken" * 1000)
    with FileLock(studio.settings.data_dir / "server.lock"):
        with pytest.raises(HistoryDamaged, match="Stop the server"):
            open_studio(studio.settings)
        with pytest.raises(DataDirBusy):
            rebuild(studio.settings)
    assert studio.settings.db_path.read_text() == "broken" * 1000


def test_a_server_repairs_when_it_starts(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.queue.supervisor.Supervisor._tick", lambda self: None)
    studio.close()
    studio.settings.db_path.write_text("broken" * 1000)
    server = Supervisor(studio.settings)
    server.start()
    again = open_studio(studio.settings)
    assert "has been made again" in str(again.status().recovery_message)
    again.close()
    server.close()


def test_damage_that_appears_while_running_has_a_message(studio: Studio) -> None:
    studio.store.database.close()
    studio.settings.db_path.write_text("broken" * 1000)
    with pytest.raises(HistoryDamaged, match="is damaged"):
        studio.jobs()


def test_files_without_a_row_find_their_place_or_go_to_trash(studio: Studio, work_once: Work) -> None:
    first, second = shelf(studio, work_once)
    media = studio.settings.media_dir
    month = (media / first.file).parent
    studio.store.database.write(lambda c: c.exec_driver_sql("DELETE FROM clips WHERE id = ?", (first.id,)))
    (month / "20200101-000000_x_s1_00000000.mp4").write_bytes(b"nothing we know")
    (month / "20200101-000000_x_s1_00000001.json").write_text("{}")
    (media / second.file).rename(month.parent / "away")
    (studio.settings.parts_dir / f"{'0' * 32}-dead.part").write_bytes(b"half")
    recover(studio.settings, studio.store)
    assert studio.clip(first.id) == first
    assert studio.clip(second.id) == dataclasses.replace(second, missing=True)
    assert sorted(path.suffix for path in studio.settings.trash_dir.iterdir()) == [".json", ".mp4"]
    assert not list(studio.settings.parts_dir.iterdir())
    (month.parent / "away").rename(media / second.file)
    recover(studio.settings, studio.store)
    assert studio.clip(second.id) == second


def test_a_file_that_is_back_is_no_longer_missing(studio: Studio, work_once: Work) -> None:
    studio.submit({"prompt": "x"})
    work_once()
    clip, = studio.clips().clips
    path, away = studio.clip_path(clip.id), studio.settings.media_dir / "away"
    server = Supervisor(studio.settings, studio.store)

    def hour() -> None:
        server._sweep_at = 0.0
        server._keep_house()

    for look in (hour, lambda: studio.clip_path(clip.id)):
        path.rename(away)
        with pytest.raises(NotFound):
            studio.clip_path(clip.id)
        assert studio.clip(clip.id).missing
        away.rename(path)
        look()
        assert studio.clip(clip.id) == clip


def test_recovery_leaves_a_living_attempt_alone(studio: Studio) -> None:
    from app.history.recovery import part_name

    studio.submit({"prompt": "x"})
    claim = studio.store.leases.claim(this_process(), now=time.time())
    assert claim is not None
    part = studio.settings.parts_dir / part_name(claim.job, claim.token)
    part.write_bytes(b"growing")
    recover(studio.settings, studio.store)
    assert part.exists() and studio.job(claim.job.id).state is JobState.RUNNING


def test_what_has_come_of_a_model_is_kept_and_what_a_death_left_is_not(studio: Studio) -> None:
    from app.hub.records import DOWNLOADS

    data = studio.settings.data_dir
    coming = studio.settings.models_dir / DOWNLOADS / "me--model" / "files" / "transformer" / "x.safetensors.part"
    left = [data / "loras" / "a.part", studio.settings.jobs_dir / "j" / ".note.json.0a1b2c3d.part"]
    young = data / "inputs" / "b.part"
    for path in (coming, *left, young):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    for path in (coming, *left):
        os.utime(path, (time.time() - 2 * 3600,) * 2)
    recover(studio.settings, studio.store)
    assert coming.read_bytes() == b"half" and young.exists()
    assert not any(path.exists() for path in left)


def test_an_empty_file_under_a_clips_name_is_no_clip(studio: Studio, work_once: Work) -> None:
    """A name reserved where there are no hard links, and then a power cut: the sidecar is there, the video is not."""
    job = studio.submit({"prompt": "x"})
    done = work_once()
    assert done is not None
    clip = studio.clip(done.clip_id or "")
    path = studio.settings.media_dir / clip.file
    whole = path.read_bytes()
    studio.store.database.write(lambda c: (c.exec_driver_sql("DELETE FROM clips"),
                                           c.exec_driver_sql("UPDATE jobs SET state = 'queued', clip_id = NULL")))
    path.write_bytes(b"")
    again = work_once()
    assert again is not None and (again.id, again.state) == (job.id, JobState.DONE)
    assert len(path.read_bytes()) == len(whole) and studio.clip(again.clip_id or "").size_bytes == len(whole)
    studio.store.database.write(lambda c: c.exec_driver_sql("DELETE FROM clips"))
    path.write_bytes(b"")
    recover(studio.settings, studio.store)
    assert studio.clips().clips == () and not path.exists()


@pytest.mark.parametrize("poison", [
    {"id": "../../x"}, {"owner": 5}, {"seed": -1}, {"seed": 2**70}, {"fps": None}, {"created_at": "now"},
    {"prompt": "\ud800"}, {"favourite": "yes"}, {"project_id": "p"}, {"made_from": "../x"}, None,
], ids=str)
def test_an_untrusted_sidecar_does_no_harm(studio: Studio, work_once: Work, poison: dict[str, object] | None) -> None:
    studio.submit({"prompt": "one", "seed": 1})
    work_once()
    clip, = studio.clips().clips
    sidecar = studio.clip_path(clip.id).with_suffix(".json")
    told = json.loads(sidecar.read_text())
    told["clip"] = told["clip"] | poison if poison is not None else [1, 2]
    sidecar.write_text(json.dumps(told))
    studio.close()
    assert rebuild(studio.settings) == 1  # from the mp4 itself
    again = open_studio(studio.settings)
    found = again.clip(clip.id)
    assert (found.prompt, found.seed, found.owner) == ("one", 1, "local")
    again.close()


def test_a_history_of_the_first_version_is_brought_up_to_date(settings: Settings) -> None:
    settings.make_folders()
    old = Database(settings.db_path)
    upgrade(old, "0001")
    old.close()
    with sqlite3.connect(settings.db_path) as raw:
        raw.execute("INSERT INTO projects VALUES ('p', 'local', 'Old', 1.0)")
        raw.execute("INSERT INTO jobs (id, owner, project_id, kind, state, request, request_sha, rank, max_attempts, created_at)"
                    f" VALUES ('{'1' * 32}', 'local', 'p', 'generate', 'queued', '{{\"prompt\": \"x\"}}', 's', 1.0, 3, 1.0)")
    raw.close()
    studio = open_studio(settings)
    assert current(studio.store.database) == HEAD
    assert studio.job("1" * 32).state is JobState.QUEUED and studio.projects()[0].name == "Old"
    studio.close()
    copy, = settings.backups_dir.glob(f"before-{HEAD}-*.db")
    with sqlite3.connect(copy) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
    raw.close()


def test_migrations_end_at_the_schema_of_the_code(studio: Studio) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    differences = studio.store.database.read(
        lambda c: compare_metadata(MigrationContext.configure(c), metadata))
    assert differences == []


def test_a_newer_history_is_left_alone(studio: Studio) -> None:
    studio.close()
    with sqlite3.connect(studio.settings.db_path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    before = studio.settings.db_path.read_bytes()
    with pytest.raises(SchemaTooNew, match="newer Sprocket"):
        open_studio(studio.settings)
    assert studio.settings.db_path.read_bytes() == before


def test_how_the_file_is_opened(studio: Studio) -> None:
    def pragma(name: str) -> object:
        return studio.store.database.read(lambda c: c.exec_driver_sql(f"PRAGMA {name}").scalar())

    expected = journal_mode(studio.settings.db_path, sqlite3.sqlite_version_info).lower()
    assert (pragma("journal_mode"), pragma("synchronous"), pragma("foreign_keys")) == (expected, 2, 1)
    assert journal_mode(Path("/"), (3, 51, 2)) == "TRUNCATE"


def test_a_data_folder_can_be_moved(studio: Studio, work_once: Work, tmp_path: Path) -> None:
    first, _second = shelf(studio, work_once)
    studio.close()
    shutil.move(studio.settings.data_dir, tmp_path / "elsewhere über")
    again = open_studio(studio.settings.model_copy(update={"data_dir": tmp_path / "elsewhere über"}))
    assert again.clip(first.id) == first and again.clip_path(first.id).exists()
    with pytest.raises(NotFound):
        again.clip("0" * 32)
    again.close()
