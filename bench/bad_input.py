"""All 71 groups of bad input against a running server: through HTTP, uploads, the API and the command line.

    python -m bench.bad_input [--only 31,44]

For each group: what was sent, what came back, and the verdict. Bad is: no words (an empty error, a traceback, HTTP 500), an input that must
be refused and was taken or the other way round, a server that does not answer any more, a word of another owner's, or a file outside the
data folder. Exit code 1 if one group is bad.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.bad_input_world import Answer, World

COUNT = 71
Sending = Callable[[World], Answer]


@dataclass(frozen=True)
class Sent:
    """One thing sent."""

    what: str
    send: Sending
    wanted: str = "either"
    """'taken', 'refused', or 'either'."""
    says: str = ""
    """Words that must be in the answer."""
    hides: str = ""
    """Words that must not."""


@dataclass(frozen=True)
class Group:
    """One of them."""

    number: int
    name: str
    sent: tuple[Sent, ...]


def judge(world: World, group: Group) -> tuple[list[str], list[str]]:
    """(what came back, what is wrong)."""
    came, wrong = [], []
    for each in group.sent:
        try:
            answer = each.send(world)
        except Exception as error:  # noqa: BLE001  (of the bench or the wire: whatever it is belongs into the table)
            answer = Answer("BROKEN", repr(error))
        words = " ".join(answer.words.split())
        came.append(f"{each.what}: {answer.kind}, {words[:110]!r}")
        if answer.kind == "BROKEN" or each.wanted not in ("either", answer.kind):
            wrong.append(f"{each.what}: wanted {each.wanted}, was {answer.kind}: {words[:300]!r}")
        if each.says and each.says not in words:
            wrong.append(f"{each.what}: does not say {each.says!r}: {words[:300]!r}")
        if each.hides and each.hides in answer.words:
            wrong.append(f"{each.what}: says {each.hides!r}")
    return came, wrong + world.wrong()


def main() -> int:
    """Command line."""
    from bench.bad_input_files import FILES
    from bench.bad_input_public import PUBLIC
    from bench.bad_input_words import WORDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    groups = [*WORDS, *FILES, *PUBLIC]
    chosen = [group for group in groups if not options.only or str(group.number) in options.only.split(",")]
    bad, count, begun = 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bad-input-") as folder:
        world = World(Path(folder))
        try:
            for group in chosen:
                came, wrong = judge(world, group)
                count += len(came)
                bad += bool(wrong)
                print(f"{group.number:2} {group.name}: {'BAD' if wrong else 'ok'}")
                for line in (*came, *(f"!! {line}" for line in wrong)):
                    print(f"     {line}")
                sys.stdout.flush()
        finally:
            code = world.close()
    missing = sorted(set(range(1, COUNT + 1)) - {group.number for group in groups})
    print(f"{len(chosen)} groups, {count} things sent in {time.monotonic() - begun:.0f} s: {len(chosen) - bad} ok, {bad} bad; "
          f"not covered: {missing or 'none'}; the server then ended with exit code {code}")
    return int(bool(bad or missing or code))


if __name__ == "__main__":
    sys.exit(main())
