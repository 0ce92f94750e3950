"""A chat model run by transformers, in a process of its own that ends with the answer: no weight of it is left when sampling begins.

The parent (the web process, the command line) never imports torch; the child (`python -m engine.refine.local_child`) does, reads
one JSON line from its input and writes pieces of the answer as JSON lines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.refine.prompts import messages_of
from engine.refine.result import Ask, RefinerFailed

ROOT = Path(__file__).resolve().parents[2]
MAX_NEW_TOKENS = 400
SECONDS = 300.0
"""Loading included; a small model on a processor needs most of it."""
MAX_LINE_BYTES = 64 * 1024
SECRETS = ("SPROCKET_REFINER_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@dataclass(frozen=True)
class LocalModel:
    """`source`: a folder, or the id of a model whose files are in the hub's cache on this machine."""

    source: str
    seconds: float = SECONDS

    def answer(self, ask: Ask, stop: threading.Event | None = None) -> Iterator[str]:
        """Pieces of the answer as they come. Raises RefinerFailed."""
        if ask.images:
            raise RefinerFailed("The local refiner reads words only. Set up an endpoint with a vision model to have pictures described.")
        task = {"source": self.source, "messages": messages_of(ask), "seed": ask.version, "max_new_tokens": MAX_NEW_TOKENS,
                "parent": os.getpid()}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        env = {name: value for name, value in os.environ.items() if name not in SECRETS}
        child = subprocess.Popen(
            [sys.executable, "-m", "engine.refine.local_child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=env | {"PYTHONPATH": path, "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"})
        ended = threading.Event()
        watch = threading.Thread(target=_guard, args=(child, self.seconds, stop, ended), daemon=True)
        watch.start()
        try:
            yield from self._pieces(child, task, stop)
        finally:
            ended.set()
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
            watch.join(5)

    def _pieces(self, child: subprocess.Popen[bytes], task: dict[str, object], stop: threading.Event | None) -> Iterator[str]:
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps(task).encode() + b"\n")
            child.stdin.flush()
        except OSError:
            raise RefinerFailed(f"The local refiner {Path(self.source).name!r} could not be started.") from None
        while line := child.stdout.readline(MAX_LINE_BYTES):
            try:
                said = json.loads(line)
            except ValueError:
                continue  # a library's own chatter
            if not isinstance(said, dict):
                continue
            if "error" in said:
                raise RefinerFailed(f"The local refiner {Path(self.source).name!r} cannot be used: {str(said['error'])[:300]}")
            if said.get("end"):
                return
            yield str(said.get("piece", ""))
        if stop is not None and stop.is_set():
            raise RefinerFailed("Refining was stopped.")
        raise RefinerFailed(f"The local refiner {Path(self.source).name!r} ended without an answer: too little memory, or longer than "
                            f"{self.seconds:g} s. Use a smaller model, or an endpoint.")


def _guard(child: subprocess.Popen[bytes], seconds: float, stop: threading.Event | None, ended: threading.Event) -> None:
    """Ends the child when its time is over or it is no longer wanted: its reader then sees the end of the pipe."""
    left = seconds
    while left > 0 and not ended.wait(0.2):
        left -= 0.2
        if stop is not None and stop.is_set():
            break
    if not ended.is_set():
        child.kill()
