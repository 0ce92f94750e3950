"""The doorkeeper by itself: sessions, guessing, proxies, passwords, and how a shared studio is started."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from app import cli, serve
from app.settings import Settings
from app.sharing import passwords, users
from app.sharing.access import COOKIE, Access, SignInRefused, TooManyAttempts
from app.sharing.attempts import WINDOW_SECONDS, Attempts
from app.sharing.opening import access_for
from app.sharing.settings import SharingSettings
from app.sharing.users import Users
from app.sharing.visitor import Role, Visitor
from app.ui.signin import own_place
from app.ui.tunnel import OpenTunnel
from engine.errors import InvalidRequest
from tests.app.test_sharing import PASSWORD, quick_hashes  # noqa: F401  (the fixture works where its name is)
from tests.at_once import at_once


def keeper(folder: Path, now: list[float], **values: Any) -> Access:
    return Access(SharingSettings(**values), folder, now=lambda: now[0], ticks=lambda: now[0])


def cookie(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"cookie", f"other=1; {COOKIE}={token}".encode())]


def test_sessions_expire_and_end_with_the_password(tmp_path: Path) -> None:
    now = [1000.0]
    access = keeper(tmp_path, now, session_idle_seconds=100, session_seconds=250)
    access.users.add("anna", Role.MAKER, PASSWORD)
    token = access.sign_in("anna", PASSWORD, "1.2.3.4")
    for now[0] in (1090.0, 1180.0):
        assert access.visitor("1.2.3.4", cookie(token)) == Visitor("user:anna", "anna", Role.MAKER)
        assert keeper(tmp_path, now, session_idle_seconds=1000).visitor("", cookie(token)) is not None  # a restart keeps it
    now[0] = 1251.0
    assert access.visitor("", cookie(token)) is None  # too old, though used
    token = access.sign_in("anna", PASSWORD, "1.2.3.4")
    now[0] += 101.0
    assert access.visitor("", cookie(token)) is None  # unused
    token = access.sign_in("anna", PASSWORD, "1.2.3.4")
    access.users.add("anna", Role.ADMIN, None)
    assert access.visitor("", cookie(token)) == Visitor("user:anna", "anna", Role.ADMIN)
    access.users.add("anna", Role.ADMIN, "another long one")
    assert access.visitor("", cookie(token)) is None
    token = access.sign_in("anna", "another long one", "1.2.3.4")
    access.users.remove("anna")
    assert access.visitor("", cookie(token)) is None


def test_whoever_is_at_work_stays_signed_in_when_the_studio_is_started_again(tmp_path: Path) -> None:
    now = [1000.0]
    access = keeper(tmp_path, now, session_idle_seconds=3600)
    access.users.add("anna", Role.MAKER, PASSWORD)
    token = access.sign_in("anna", PASSWORD, "1.2.3.4")
    for now[0] in range(1000, 9000, 300):
        assert access.visitor("1.2.3.4", cookie(token)) is not None
    assert keeper(tmp_path, now, session_idle_seconds=3600).visitor("1.2.3.4", cookie(token)) is not None


def test_guessing_is_slowed_and_a_neighbour_still_gets_in(tmp_path: Path) -> None:
    now = [0.0]
    access = keeper(tmp_path, now)
    access.users.add("anna", Role.MAKER, PASSWORD)
    for name in ("anna", "nobody"):
        for _ in range(5):
            with pytest.raises(SignInRefused, match="do not go together"):
                access.sign_in(name, "wrong password", "6.6.6.6")
        with pytest.raises(TooManyAttempts):
            access.sign_in(name, PASSWORD, "6.6.6.6")
    assert access.sign_in("anna", PASSWORD, "1.2.3.4")
    now[0] = 301.0
    assert access.sign_in("anna", PASSWORD, "6.6.6.6")


def test_a_clock_set_back_keeps_nobody_out_for_longer(tmp_path: Path) -> None:
    now = [1e9]
    access = Access(SharingSettings(), tmp_path, now=lambda: now[0])
    for _ in range(5):
        with pytest.raises(SignInRefused):
            access.sign_in("anna", "wrong password", "6.6.6.6")
    now[0] -= 86_400.0
    with pytest.raises(TooManyAttempts) as refused:
        access.sign_in("anna", PASSWORD, "6.6.6.6")
    assert refused.value.seconds <= WINDOW_SECONDS


def test_right_passwords_are_no_failures() -> None:
    attempts = Attempts(lambda: 0.0)
    for _ in range(10):
        assert attempts.wait([("a", 2), ("b", 3)]) == 0
        attempts.failed([("a", 2), ("b", 3)])
        attempts.succeeded([("a", 2), ("b", 3)], "a")


def test_a_proxy_s_word_counts_from_the_proxy_only(tmp_path: Path) -> None:
    access = keeper(tmp_path, [0.0], proxy_header="X-Forwarded-User", trusted_proxies="10.0.0.0/8, ::1", proxy_role="viewer")
    access.users.add("root", Role.ADMIN, None)
    named = [(b"x-forwarded-user", b"Carl@Example")]
    assert access.visitor("10.1.2.3", named) == Visitor("user:carl@example", "carl@example", Role.VIEWER)
    assert access.visitor("10.1.2.3", [(b"X-Forwarded-User", b"root")]) == Visitor("user:root", "root", Role.ADMIN)
    assert access.visitor("192.168.1.1", named) is None
    assert access.visitor("", named) is None
    assert access.visitor("10.1.2.3", [*named, (b"x-forwarded-user", b"root")]) is None
    assert access.visitor("10.1.2.3", [(b"x-forwarded-user", b"../x")]) is None
    forwarded = [(b"x-forwarded-for", b"6.6.6.6, 7.7.7.7")]
    assert (access.address("10.1.2.3", forwarded), access.address("5.5.5.5", forwarded)) == ("7.7.7.7", "5.5.5.5")
    with pytest.raises(SignInRefused):
        access.sign_in("root", "", "1.1.1.1")  # has no password


def test_a_token_for_programs(tmp_path: Path) -> None:
    access = keeper(tmp_path, [0.0])
    access.users.add("anna", Role.MAKER, PASSWORD)
    token = access.users.add_token("anna")
    assert token not in access.users.path.read_text()
    assert access.visitor("", [(b"authorization", f"Bearer {token}".encode())]) == Visitor("user:anna", "anna", Role.MAKER)
    assert access.visitor("", [(b"authorization", b"Bearer x")]) is None
    assert access.users.drop_tokens("anna") == 1
    assert access.visitor("", [(b"authorization", f"Bearer {token}".encode())]) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2, "users": {}}', '{"version": 1, "users": {"a": {"role": "god"}}}',
                                  "[" * 50_000])
def test_a_damaged_users_file_lets_nobody_in(tmp_path: Path, text: str) -> None:
    (tmp_path / "users.json").write_text(text)
    with pytest.raises(InvalidRequest, match="users file"):
        access_for(SharingSettings(), tmp_path, reachable=False)


@pytest.mark.parametrize("record", ["", "x", "scrypt$1$1$1", "scrypt$0$8$1$AAAA$AAAA", "scrypt$99999999$8$1$AAAA$AAAA",
                                    "bcrypt$1$1$1$AA$AA"])
def test_a_damaged_password_matches_nothing(record: str) -> None:
    assert not passwords.matches(PASSWORD, record)


def test_passwords() -> None:
    first, second = passwords.hashed(PASSWORD), passwords.hashed(PASSWORD)
    assert first != second
    assert passwords.matches(PASSWORD, first)
    assert not passwords.matches(PASSWORD + " ", first)
    assert not passwords.matches("", passwords.NOBODY)
    for bad in ("short", "x" * 201):
        with pytest.raises(InvalidRequest, match="10 to 200"):
            passwords.hashed(bad)


# ---- starting

def test_others_are_let_in_only_where_somebody_can_sign_in(tmp_path: Path) -> None:
    assert access_for(SharingSettings(), tmp_path, reachable=False) is None
    with pytest.raises(InvalidRequest, match="sprocket users add"):
        access_for(SharingSettings(), tmp_path, reachable=True)
    assert access_for(SharingSettings(public=True), tmp_path, reachable=True) is None
    assert access_for(SharingSettings(proxy_header="X-User"), tmp_path, reachable=True) is not None
    Users(tmp_path / "users.json").add("anna", Role.MAKER, PASSWORD)
    assert access_for(SharingSettings(), tmp_path, reachable=False) is not None


def test_listen_without_users_says_how_to_get_some(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.app, ["serve", "--listen", "--port", "0", "--data-dir", str(tmp_path)])
    assert isinstance(done.exception, InvalidRequest)
    assert "sprocket users add" in str(done.exception)


@pytest.mark.parametrize("people", [False, True])
def test_an_address_on_the_internet_says_who_gets_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                                     people: bool) -> None:
    for name, stand_in in (("set_up_logs", lambda: None), ("few_arenas", lambda: None), ("at_work", contextlib.nullcontext)):
        monkeypatch.setattr(serve, name, stand_in)
    monkeypatch.setattr("app.ui.tunnel.open_tunnel", lambda port: OpenTunnel("https://x.gradio.live", SimpleNamespace(kill=int)))
    monkeypatch.setattr("app.ui.server.serve", lambda *_: None)
    monkeypatch.setenv("SPROCKET_DATA_DIR", str(tmp_path))
    if people:
        Users(tmp_path / "users.json").add("anna", Role.ADMIN, PASSWORD)
    serve.serve_from_settings(Settings(data_dir=tmp_path, port=0), public=not people, share=True)
    said = capsys.readouterr().err
    assert ("for everybody who can sign in" in said) is people
    assert ("nobody is asked to sign in" in said) is not people


def test_the_command(tmp_path: Path) -> None:
    def run(*words: str, text: str = "") -> Any:
        return CliRunner().invoke(cli.app, ["users", *words, "--data-dir", str(tmp_path)], input=text)
    made = run("add", "Anna", "--role", "admin", "--generate")
    assert made.exit_code == 0
    assert Users(tmp_path / "users.json").with_password("anna", made.stdout.strip())
    assert run("add", "ben", "--password-stdin", "--local", text=PASSWORD + "\n").exit_code == 0
    rows = json.loads(run("list", "--json").stdout)["users"]
    assert [(r["name"], r["role"], r["owner"]) for r in rows] == [("anna", "admin", "user:anna"), ("ben", "maker", "local")]
    token = run("token", "ben").stdout.strip()
    assert Users(tmp_path / "users.json").with_token(token)
    people = Users(tmp_path / "users.json")
    before = people.get("ben")
    assert isinstance(run("add", "ben", "--password-stdin", text="\n").exception, InvalidRequest)
    assert run("add", "ben", "--proxy-only").exit_code == 0  # takes away the password there is
    after = people.get("ben")
    assert before and after and people.with_password("ben", PASSWORD) is None and before.stamp != after.stamp
    assert (after.owner, after.tokens, after.password) == ("local", before.tokens, "")
    assert run("remove", "ben").exit_code == 0
    assert isinstance(run("remove", "ben").exception, Exception)
    assert isinstance(run("add", "../x", "--generate").exception, InvalidRequest)
    assert isinstance(run("add", "x", "--role", "god", "--generate").exception, InvalidRequest)


def test_two_commands_at_once_lose_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once(monkeypatch, users, *(partial(Users(tmp_path / "users.json").add, name, Role.MAKER, None) for name in ("anna", "ben")))
    assert set(Users(tmp_path / "users.json").all()) == {"anna", "ben"}


@pytest.mark.parametrize(("there", "goes"), [("/?view=queue", "/?view=queue"), ("//evil.example", "/"), ("/\\evil.example", "/"), ("", "/"),
                                             ("https://evil.example", "/"), ("/signout", "/"), ("/a\nb", "/"), ("/" + "a" * 3000, "/")])
def test_after_signing_in_one_stays_here(there: str, goes: str) -> None:
    assert own_place(there) == goes


@pytest.mark.parametrize(("name", "value"), [("trusted_proxies", "everyone"), ("proxy_role", "god"), ("proxy_header", "x y"),
                                             ("queued_each", "0"), ("session_seconds", "-1")])
def test_bad_settings_are_named(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=f"SPROCKET_{name.upper()}"):
        SharingSettings(**{name: value})

