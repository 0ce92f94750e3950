"""`sprocket users`: the people of a shared studio. A running server knows of every change at once.

    sprocket users add anna --role maker        asks for the password, twice; --generate makes one up and prints it
    sprocket users list [--json]
    sprocket users token anna                   prints a token for programs; --drop ends all of hers
    sprocket users remove anna                  her clips stay
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli_common import DataDir, Json, print_list, say, settings_of
from app.sharing.settings import SharingSettings
from app.sharing.users import Users, checked_role, checked_user_name
from engine.errors import InvalidRequest

users_app = typer.Typer(no_args_is_help=True, help="People of a shared studio: add, list, remove, tokens.")
WORDS = "abcdefghjkmnpqrstuvwxyz23456789"


@users_app.command("add")
def add(
    name: str,
    role: Annotated[str, typer.Option(help="viewer, maker or admin.")] = "maker",
    stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")] = False,
    generate: Annotated[bool, typer.Option("--generate", help="Make a password up and print it, once.")] = False,
    proxy_only: Annotated[bool, typer.Option("--proxy-only", help="No password: only a trusted reverse proxy signs them in.")] = False,
    local: Annotated[bool, typer.Option("--local", help="Theirs is what was made before, and what the command line makes.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Add somebody, or give somebody another role and password."""
    name, kind = checked_user_name(name), checked_role(role)
    if stdin + generate + proxy_only > 1:
        raise InvalidRequest("password", "comes from one place: --password-stdin, --generate or --proxy-only, not several.")
    made = "-".join("".join(secrets.choice(WORDS) for _ in range(5)) for _ in range(4)) if generate else None
    password = made if generate else None if proxy_only else sys.stdin.readline().rstrip("\n") if stdin else _asked()
    user = _users(data_dir).add(name, kind, password, owner="local" if local else None, proxy_only=proxy_only)
    print_list("users", [{"name": user.name, "role": user.role.word, "owner": user.owner} | ({"password": made} if made else {})], as_json,
               lambda row: row.get("password", ""), empty="")
    say(f"{user.name} may sign in as {user.role.word}." + (" The password above is shown this once." if made else ""))


@users_app.command("list")
def list_users(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Who may sign in."""
    rows = [{"name": user.name, "role": user.role.word, "owner": user.owner, "password": bool(user.password), "tokens": len(user.tokens)}
            for user in _users(data_dir).all().values()]
    print_list("users", rows, as_json, lambda r: f"{r['name']:<24}  {r['role']:<7}  {'password' if r['password'] else 'proxy only'}"
                                                 + (f", {r['tokens']} tokens" if r["tokens"] else ""),
               empty="Nobody yet. `sprocket users add NAME --role admin` adds somebody.")


@users_app.command("remove")
def remove(name: str, data_dir: DataDir = None) -> None:
    """Take somebody's way in; sessions and tokens end at once. Clips stay, and come back with the same name."""
    say(f"{_users(data_dir).remove(name).name} can no longer sign in.")


@users_app.command("token")
def token(
    name: str,
    drop: Annotated[bool, typer.Option("--drop", help="End all tokens instead.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Print a fresh token for programs (`Authorization: Bearer …`), with the person's own rights."""
    users = _users(data_dir)
    if drop:
        say(f"{users.drop_tokens(name)} tokens ended.")
        return
    print(users.add_token(name))
    say("Shown this once. Whoever has it can do what that person can.")


def _asked() -> str:
    if not sys.stdin.isatty():
        raise InvalidRequest("password", "cannot be asked for: standard input is no terminal. Use --password-stdin or --generate.")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


def _users(data_dir: Path | None) -> Users:
    return Users(SharingSettings().users_path(settings_of(data_dir).data_dir))
