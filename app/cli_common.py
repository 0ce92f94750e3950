"""What the commands share: options, lines for people, lists, an open studio."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from app.history.records import Job
from app.settings import Settings
from app.studio import Studio, open_studio
from engine.errors import CannotFit, MemoryRanOut, SprocketError

DataDir = Annotated[Path | None, typer.Option("--data-dir", envvar="SPROCKET_DATA_DIR", show_default=False,
                                              help="Where clips, history and queue live.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def say(text: str) -> None:
    """A line for people; standard output stays free for JSON."""
    print(text, file=sys.stderr, flush=True)


def print_list(name: str, rows: list[dict[str, Any]], as_json: bool, line: Callable[[dict[str, Any]], str], *, empty: str) -> None:
    """One row a line, or all of them as `{name: rows}`."""
    if as_json:
        print(json.dumps({name: rows}))
        return
    for row in rows:
        print(line(row))
    if not rows:
        say(empty)


def ended(job: Job) -> SprocketError:
    """What a job without its clip is to its command: `CannotFit`, as if refused before, where memory was what it had not."""
    kind = CannotFit if job.error_code in (CannotFit.code, MemoryRanOut.code) else SprocketError
    return kind(f"the job ended as {job.state.value}: {job.error or 'see its log'} (job {job.id})")


@contextmanager
def opened(data_dir: Path | None) -> Iterator[Studio]:
    """The studio of `--data-dir`, closed after use."""
    studio = open_studio(settings_of(data_dir))
    try:
        yield studio
    finally:
        studio.close()


def settings_of(data_dir: Path | None, **values: Any) -> Settings:
    """Settings with what the command line said on top."""
    given = {"data_dir": data_dir, **values}
    return Settings(**{name: value for name, value in given.items() if value is not None})
