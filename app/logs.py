"""What the server writes about itself: one line an event, as JSON where `SPROCKET_LOG=json`, with secrets taken out.

    {"at": "2026-11-25T01:02:03.456Z", "level": "INFO", "logger": "sprocket.http", "text": "GET /media/clips/… 200", "ms": 3.1,
     "owner": "5f1c…"}

Prompts are not logged by the server. A line is a line whatever is in it: no new lines, no colours from outside.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import traceback
from datetime import datetime, timezone

from engine.errors import InvalidRequest

FORMATS = ("text", "json")
HIDDEN = "[hidden]"
SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=\-]{10,}"), r"\1 " + HIDDEN),
    (re.compile(r"\b(?:hf_|sk-|ghp_|xox[bap]-)[A-Za-z0-9_\-]{8,}"), HIDDEN),
    (re.compile(r"scrypt\$[0-9$A-Za-z+/=]+"), HIDDEN),
    (re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"), HIDDEN),
    (re.compile(r"(?i)((?:password|passwd|secret|token|api_?key|sprocket_session|authorization|cookie)[\"']?\s*[=:]\s*[\"']?)"
                r"(?!bearer |basic )[^\s\"',;&}]+"), r"\1" + HIDDEN),
)
"""What looks like a secret, and what stands there instead."""
FIELDS = ("job", "owner", "ms", "status", "method", "path", "bytes")
"""What a log call may add with `extra=`."""
MOST_CHARS = 4000


def redacted(text: str) -> str:
    """`text` without what looks like a secret."""
    for pattern, instead in SECRETS:
        text = pattern.sub(instead, text)
    return text


def one_line(text: str) -> str:
    """As it may stand in a log: secrets hidden, control characters spelled out, not endless."""
    clean = redacted(text)
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in clean)
    return clean if len(clean) <= MOST_CHARS else f"{clean[:MOST_CHARS]}… ({len(clean):,} characters)"


def owner_mark(owner: str) -> str:
    """An owner as logs name them: the same each time, and no name."""
    return hashlib.sha256(owner.encode()).hexdigest()[:12]


class Lines(logging.Formatter):
    """Records as text or JSON, one line each."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def format(self, record: logging.LogRecord) -> str:
        try:
            text = record.getMessage()
        except (TypeError, ValueError):  # a message with the wrong number of values
            text = str(record.msg)
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info and record.exc_info[0] else ""
        at = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        more = {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        more = {name: one_line(value) if isinstance(value, str) else value for name, value in more.items()}
        if self.kind == "json":
            said = {"at": at, "level": record.levelname, "logger": record.name, "text": one_line(text), **more}
            return json.dumps(said | ({"trace": redacted(trace)[-MOST_CHARS:]} if trace else {}), default=str)
        shown = "".join(f" {name}={value}" for name, value in more.items())
        return f"{at} {record.levelname} {record.name}: {one_line(text)}{shown}" + (f"\n{redacted(trace)}" if trace else "")


def set_up_logs(kind: str | None = None) -> None:
    """All of this process's log lines to standard error. `kind`: text or json, `SPROCKET_LOG` unless said. Raises InvalidRequest."""
    kind = kind or os.environ.get("SPROCKET_LOG", "text")
    if kind not in FORMATS:
        raise InvalidRequest("log", f"is {kind[:40]!r}; SPROCKET_LOG is text or json.")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(kind))
    handler.setLevel(logging.INFO if kind == "json" else logging.WARNING)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    if kind == "json":
        logging.getLogger("sprocket.http").setLevel(logging.INFO)
