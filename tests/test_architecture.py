"""The import rules and size budgets of the house, read off the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST_FUNCTION = 60
LONGEST_FILE = 450


def sources(room: str) -> list[Path]:
    return sorted(p for p in (ROOT / room).rglob("*.py"))


@cache
def imports(path: Path) -> set[str]:
    """Every module named in an import statement of the file, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
    return found


def users_of(module: str, *rooms: str) -> set[str]:
    return {str(p.relative_to(ROOT)) for room in rooms for p in sources(room)
            if any(name == module or name.startswith(module + ".") for name in imports(p))}


@pytest.mark.parametrize(("room", "forbidden"), [("engine", "app"), ("engine", "training"), ("training", "app")])
def test_arrows_point_one_way(room: str, forbidden: str) -> None:
    assert users_of(forbidden, room) == set()


def test_gradio_only_in_the_pages() -> None:
    assert {p for p in users_of("gradio", "app", "engine", "training") if not p.startswith("app/ui/")} == set()


def test_sqlalchemy_only_in_the_history() -> None:
    for module in ("sqlalchemy", "alembic"):
        assert {p for p in users_of(module, "app", "engine", "training") if not p.startswith("app/history/")} == set()


PURE = ("engine", "engine.request", "engine.spec", "engine.plan", "engine.events", "engine.errors", "engine.hardware",
        "engine.models.catalogue", "engine.video.publish", "engine.video.recipe", "engine.media.probe", "app.studio", "app.settings",
        "app.queue.supervisor", "app.cli", "app.ui.server", "engine.choices", "engine.facts", "engine.memory", "engine.ladder",
        "engine.recovery", "engine.alternatives", "engine.speed", "app.planning", "app.plan_command", "engine.lora",
         "engine.lora.planned", "app.loras", "app.batches", "engine.cache.measured", "app.length", "app.key_frames",
         "engine.interpolate.levels", "engine.interpolate.planning", "engine.interpolate.store", "app.datasets", "training.data.checks",
         "training.data.taking", "training.data.parquet", "training.data.example",
         "engine.parallel.planned", "engine.parallel.watch", "engine.parallel.fleet", "app.parallel_view", "app.training",
         "engine.refine.pocket", "engine.refine.endpoint", "engine.refine.local", "engine.refine.chat", "app.refining",
         "training.lora.config", "training.lora.rundir", "training.lora.forecast", "app.queue.kinds.train")


def test_the_web_process_never_imports_torch() -> None:
    code = f"import sys\nfor name in {PURE!r}: __import__(name)\nprint([m for m in ('torch', 'diffusers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", [p for room in ("app", "engine", "training") for p in sources(room)],
                         ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LONGEST_FILE
    long = {node.name: node.end_lineno - node.lineno + 1 for node in ast.walk(ast.parse(text))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno
            and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION}
    assert long == {}


def test_app_py_is_an_entry_and_no_more() -> None:
    assert (ROOT / "app.py").read_text().count("\n") <= 40
