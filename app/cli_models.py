"""`sprocket models`: what is here, what could be fetched; download, add, verify, delete.

    sprocket models list [--json]
    sprocket models download OWNER/NAME [--revision REV] [--json]     goes on where an earlier one stopped
    sprocket models add FOLDER | verify NAME... | delete NAME
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import Annotated, Any

import typer

from app.cli_common import DataDir, Json, opened, say
from app.errors import HubDamaged, HubGated, HubMissing, HubOffline, HubUnreachable, NotAllowed
from app.hub.downloads import offline
from app.hub.keeper import start_process
from app.hub.records import Download, Phase
from app.hub.shelf import Card, Hub
from app.hub.words import amount
from app.settings import Settings
from engine.errors import CannotFit, ModelInvalid, SprocketError, StorageBlocked
from engine.models.catalogue import find, places

models_app = typer.Typer(no_args_is_help=True, help="Models: list, download, add, verify, delete.")
LOOK_SECONDS = 0.25
SAY_SECONDS = 2.0
MAX_STARTS = 3
"""How often the downloading process is started without a byte coming."""
CODES: dict[str, type[SprocketError]] = {
    kind.code: kind for kind in (CannotFit, ModelInvalid, StorageBlocked, HubDamaged, HubGated, HubMissing, HubOffline, HubUnreachable)}
"""What progress.json says as `error_code` -> the error it was."""


@models_app.command("list")
def models_list(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Models that can be used now, and those that can be downloaded."""
    with opened(data_dir) as studio:
        specs = {spec.name: spec.to_json() for spec in studio.models()}
        cards = studio.hub.cards()
    here = [specs.get(card.name, {}) | card.to_json() for card in cards if card.folder is not None]
    rest = [card.to_json() for card in cards if card.folder is None]
    if as_json:
        print(json.dumps({"models": here, "available": rest}))
        return
    for card in cards:
        print(_line(card))
    if not here:
        say("No model is on this machine: assets/pocket is missing from this copy of Sprocket.")
    if rest:
        say("HF_HUB_OFFLINE is set: nothing can be downloaded." if offline() else
            "`sprocket models download NAME` fetches one; any other id owner/name of a CogVideoX model in diffusers layout works too.")


@models_app.command("download")
def models_download(
    model: Annotated[str, typer.Argument(help="owner/name on the hub, e.g. zai-org/CogVideoX-2b.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; left out: what was begun, else the newest.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Fetch a model; a download that was interrupted goes on. Ctrl+C stops it and keeps what has come."""
    with opened(data_dir) as studio:
        asked = studio.hub.ask(model, revision)
        say(f"{asked.repo} into {studio.hub.folder}")
        _follow(studio.settings, studio.hub, asked.repo)
        card = next(card for card in studio.hub.cards() if card.name == asked.repo)
    if as_json:
        print(json.dumps(card.to_json()))
    else:
        print(card.folder)


@models_app.command("add")
def models_add(folder: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """List a local folder in diffusers layout; it stays where it is."""
    with opened(data_dir) as studio:
        name = studio.hub.add_folder(folder)
    print(json.dumps({"name": name}) if as_json else name)


@models_app.command("verify")
def models_verify(names: Annotated[list[str] | None, typer.Argument(help="All that are here when left out.")] = None,
                  data_dir: DataDir = None, as_json: Json = False) -> None:
    """Read every byte of the models again and compare. Exit code 1 if one is damaged."""
    with opened(data_dir) as studio:
        wanted = names or [card.name for card in studio.hub.cards() if card.folder is not None]
        found = [studio.hub.verify(name) for name in wanted]
    if as_json:
        print(json.dumps({"ok": all(each.ok for each in found), "models": [each.to_json() for each in found]}))
    else:
        for each in found:
            how = f"{each.checked} files as on the hub" if each.checked else "configs and headers (no checksums are known for it)"
            print(f"{'ok ' if each.ok else 'BAD'}  {each.name:<32}{how if each.ok else '; '.join(each.problems)}")
    if not all(each.ok for each in found):
        raise SystemExit(1)


@models_app.command("delete")
def models_delete(name: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Remove a model and what has come of a download that is not complete. Of an added folder only the entry goes."""
    with opened(data_dir) as studio:
        unfinished = studio.hub.download(name) is not None
        if unfinished:
            studio.hub.discard(name)
            say(f"What had come of the download of {name} was deleted.")
        if not unfinished or name in places(studio.hub.folder):
            studio.hub.delete(name)
            say(f"{name} was deleted.")
    if as_json:
        print(json.dumps({"deleted": name}))


def _line(card: Card) -> str:
    size = amount(card.size_bytes) if card.size_bytes else f"{amount(card.download_bytes)} to fetch" if card.download_bytes else ""
    shape = f"{card.width} x {card.height}, {card.frames} frames at {card.fps:g} fps" if card.width and card.fps else ""
    state = card.state if card.download is None else f"{card.state}, {card.download.share:.0%}"
    return f"{card.name:<32}{state:<18}{shape:<40}{size}".rstrip()


def _follow(settings: Settings, hub: Hub, repo: str) -> None:
    """Until it is complete. Fetches in a process of its own, unless another one (the server's) already does."""
    child: subprocess.Popen[bytes] | None = None
    starts, teller = 0, _Teller()
    terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while (now := hub.download(repo)) is not None:
            teller(now)
            if now.phase.ended:
                _raise(now)
            if child is None or child.poll() is not None:
                if child is not None and child.returncode not in (0, 4):
                    starts = starts + 1 if teller.still else 1
                if starts >= MAX_STARTS:
                    raise SprocketError(f"the downloading process ended {MAX_STARTS} times; see what it printed. What has come stays.")
                if now.phase is Phase.WAITING:  # nobody is at it
                    child = start_process(settings, repo)
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:
        _stop(hub, repo, child)
        raise
    finally:
        signal.signal(signal.SIGTERM, terminated)
        if child is not None and child.poll() is None:
            child.terminate()
            child.wait()
    find(repo, models_dir=settings.models_dir)  # discarded by somebody else: says that it is not here


def _stop(hub: Hub, repo: str, child: subprocess.Popen[bytes] | None) -> None:
    if child is not None and child.poll() is None:
        child.terminate()
        child.wait()
    if hub.download(repo) is not None:
        hub.cancel(repo)
    say("Stopped; what has come stays. The same command goes on.")


def _raise(now: Download) -> None:
    if now.phase is Phase.STOPPED:
        raise NotAllowed(f"the download of {now.repo} was cancelled. What has come stays; the same command goes on.")
    raise CODES.get(now.progress.error_code or "", SprocketError)(now.progress.error or "it failed without a reason.")


class _Teller:
    """Says how far a download is, a line every other second, and whether anything came since the last process was started."""

    def __init__(self) -> None:
        self._said_at, self._said, self._bytes = 0.0, "", -1
        self.still = False

    def __call__(self, now: Download) -> None:
        progress: Any = now.progress
        self.still, self._bytes = progress.done_bytes == self._bytes, progress.done_bytes
        words = [now.phase.value]
        if progress.total_bytes:
            words.append(f"{amount(progress.done_bytes)} of {amount(progress.total_bytes)}, {now.share:.0%}")
        if progress.bytes_per_second:
            words.append(f"{amount(progress.bytes_per_second)}/s, {progress.eta_seconds:.0f} s left")
        if progress.note:
            words.append(progress.note)
        line = "  " + ", ".join(words)
        if line != self._said and time.monotonic() - self._said_at >= SAY_SECONDS:
            say(line)
            self._said_at, self._said = time.monotonic(), line
