"""What installing the studio brings along."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

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


def test_no_package_needs_a_screen() -> None:
    names = brought_along("sprocket-studio")
    assert {"opencv-python-headless", "scenedetect-headless", "torch", "click"} <= names
    assert not names & SCREENS
