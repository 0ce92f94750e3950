"""What differs on a database server, without one: the words of SQL, its errors as ours, the setting and its password."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sqlalchemy import exc, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateTable

from app.errors import HistoryBusy, HistoryUnreachable
from app.history.leases import first_waiting
from app.history.opening import open_store
from app.history.postgres import PostgresDatabase, explained, may_help
from app.history.rows import storable
from app.history.schema import clips
from app.history.substring import holds
from app.settings import Settings
from engine.errors import InvalidRequest, StorageBlocked

URL = "postgresql://anna:geheim@db.example:5432/studio"


class Said(Exception):
    """A driver's error."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__("the server's words")
        self.sqlstate = sqlstate


def raised(sqlstate: str | None, *, broken: bool = False) -> exc.OperationalError:
    return exc.OperationalError("SELECT 1", {}, Said(sqlstate), connection_invalidated=broken)


@pytest.mark.parametrize(("sqlstate", "ours"), [
    (None, HistoryUnreachable), ("08006", HistoryUnreachable), ("57P01", HistoryUnreachable), ("53300", HistoryUnreachable),
    ("55P03", HistoryBusy), ("57014", HistoryBusy), ("40P01", HistoryBusy), ("53100", StorageBlocked), ("25006", StorageBlocked),
    ("42P01", Said)])
def test_the_servers_errors_are_ours(sqlstate: str | None, ours: type[Exception]) -> None:
    made = explained(raised(sqlstate), "postgresql://anna:***@db.example/studio")
    assert type(made) is ours
    assert "geheim" not in str(made) and (ours is Said or "anna:***@db.example" in str(made))


def test_only_what_a_fresh_transaction_may_mend_is_tried_again() -> None:
    assert [may_help(raised(state)) for state in ("40P01", "40001", "55P03", None)] == [True, True, False, False]
    assert may_help(raised(None, broken=True))


def test_claiming_locks_one_row_and_passes_over_locked_ones() -> None:
    query = first_waiting(lock=True)
    assert str(query.compile(dialect=postgresql.dialect())).endswith("FOR UPDATE SKIP LOCKED")
    assert "FOR UPDATE" not in str(query.compile(dialect=sqlite.dialect()))
    assert "FOR UPDATE" not in str(first_waiting().compile(dialect=postgresql.dialect()))  # an idle look takes no lock


def test_a_literal_search_in_the_words_of_either() -> None:
    query = select(clips.c.id).where(holds(clips.c.search, "50%_"))
    assert "strpos(clips.search, " in str(query.compile(dialect=postgresql.dialect()))
    assert "instr(clips.search, " in str(query.compile(dialect=sqlite.dialect()))


def test_large_numbers_are_large_there_and_sqlite_tables_stay_as_they_are() -> None:
    there, here = (str(CreateTable(clips).compile(dialect=one.dialect())) for one in (postgresql, sqlite))
    assert "seed BIGINT NOT NULL" in there and "size_bytes BIGINT NOT NULL" in there
    assert "seed INTEGER NOT NULL" in here and "BIGINT" not in here
    assert storable("a\0b") == "a\N{REPLACEMENT CHARACTER}b"


def test_the_setting_reaches_workers_and_its_password_nobody(own_data_dir: Path) -> None:
    settings = Settings(data_dir=own_data_dir, database=URL.replace("postgresql:", "postgres:"))
    assert settings.on_server and settings.to_env()["SPROCKET_DATABASE"] == URL
    assert "geheim" not in repr(settings) and settings.server_lock != Settings(data_dir=own_data_dir).server_lock
    assert Settings(data_dir=own_data_dir).to_env()["SPROCKET_DATABASE"] == ""


@pytest.mark.parametrize("url", ["mysql://u:geheim@h/db", "postgresql://u:geheim@host", "history.db",
                                 "postgresql://u:geheim@host:many/db", "postgresql://u:geheim@[::1/db"])
def test_an_address_that_is_none_is_refused_in_words(url: str) -> None:
    with pytest.raises(InvalidRequest, match="postgresql://user:password@host:port/name") as refused:
        Settings(database=url)
    assert "geheim" not in str(refused.value) and "SPROCKET_DATABASE" in str(refused.value)


def test_a_password_after_the_question_mark_is_shown_to_nobody() -> None:
    pytest.importorskip("psycopg", reason="the driver is an extra")
    name = PostgresDatabase("postgresql://anna:geheim@h/studio?password=auchgeheim&sslpassword=drittes&sslmode=require").name
    assert "geheim" not in name and "drittes" not in name and "sslmode=require" in name


def test_without_the_driver_it_is_said_what_to_install(own_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InvalidRequest, match=r"pip install 'psycopg\[binary\]'"):
        open_store(Settings(data_dir=own_data_dir, database=URL))


def test_a_server_that_is_not_there(own_data_dir: Path) -> None:
    pytest.importorskip("psycopg", reason="the driver is an extra")
    with pytest.raises(HistoryUnreachable, match=r"cannot be reached.*SPROCKET_DATABASE"):
        open_store(Settings(data_dir=own_data_dir, database="postgresql://anna:geheim@127.0.0.1:9/studio"))
