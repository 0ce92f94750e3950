"""What installing the studio brings along."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest

SCREENS = {"opencv-python", "opencv-contrib-python", "pyqt5", "pyqt6", "pyside6"}
"""They link the libraries of a desktop (X11, OpenGL), which servers and slim containers do not have: `import cv2` fails there."""


def brought_along(package: str) -> set[str]:
    """Names of all packages that `package` asks for without its extras, and theirs, as far as they are installed here."""
    found: set[str] = set()
    waiting = [package]
    while waiting:
        try:
            wanted = requires(waiting.pop()) or []
        except PackageNotFoundError:  # for another system or another Python
            continue
        for name in (re.split(r"[\s\[(<>=!~;]", line)[0].lower().replace("_", "-") for line in wanted if "extra ==" not in line):
            if name not in found:
                found.add(name)
                waiting.append(name)
    return found


def test_an_environment_without_pip_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("install", Path(__file__).parents[1] / "scripts/install.py")
    assert spec and spec.loader
    install = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(install)
    made: list[tuple[Path, bool]] = []
    monkeypatch.setattr(install, "VENV", tmp_path)
    monkeypatch.setattr(install.venv, "create", lambda folder, *, with_pip, clear: made.append((folder, with_pip and clear)))
    program = install.venv_python()
    program.parent.mkdir()
    for code, times in ((1, 1), (0, 1)):  # its pip fails, and works
        program.write_text(f"#!/bin/sh\nexit {code}\n")
        program.chmod(0o755)
        install.make_venv()
        assert made == [(tmp_path, True)] * times

    def without_pip(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "ensurepip")

    monkeypatch.setattr(install.venv, "create", without_pip)
    program.unlink()
    with pytest.raises(SystemExit, match="python3-venv"):
        install.make_venv()


def test_no_package_needs_a_screen() -> None:
    names = brought_along("sprocket-studio")
    assert {"opencv-python-headless", "scenedetect-headless", "torch", "click"} <= names
    assert not names & SCREENS
