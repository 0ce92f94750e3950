"""Where else a run's numbers go: tensorboard, wandb, trackio, through accelerate's trackers. The run's own log is always written."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import InvalidRequest


def check_trackers(names: Sequence[str]) -> None:
    """Raises `InvalidRequest` for one that is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InvalidRequest("trackers", f"{name} is not installed: `pip install {name}`. The page shows every curve without it.")


class Trackers:
    """Owns what is open; `close()` it."""

    def __init__(self, names: Sequence[str], project: str = "sprocket", folder: Path | None = None,
                 config: dict[str, Any] | None = None) -> None:
        check_trackers(names)
        self._open: list[Any] = []
        if not names:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        for name in names:
            kind = LOGGER_TYPE_TO_CLASS[name]
            made = kind(project, logging_dir=folder) if kind.requires_logging_directory else kind(project)
            if hasattr(made, "start"):
                made.start()
            made.store_init_configuration({key: value if isinstance(value, (int, float, str, bool)) else str(value)
                                           for key, value in (config or {}).items()})
            self._open.append(made)

    def log(self, values: dict[str, float], step: int) -> None:
        for tracker in self._open:
            tracker.log(values, step=step)

    def close(self) -> None:
        for tracker in self._open:
            tracker.finish()
        self._open = []
