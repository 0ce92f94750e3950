"""The upload folder of a Space: built from what git tracks, and its checker finds what the platform would refuse."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def space() -> ModuleType:
    spec = importlib.util.spec_from_file_location("space_script", ROOT / "scripts" / "space.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["space_script"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(space: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("space")
    space.build(made)
    return made


def test_the_folder_is_what_the_platform_takes(space: ModuleType, folder: Path) -> None:
    assert (folder / "app.py").is_file()
    assert not (folder / "tests").exists()
    assert not list(folder.rglob("*.pyc"))
    assert space.check_readme((folder / "README.md").read_text(), folder) == []
    assert space.check_requirements((folder / "requirements.txt").read_text()) == []
    assert space.check_files(folder) == []
    assert space.check_entry(folder) == []


@pytest.mark.parametrize(("change", "words"), [
    (lambda t: t.replace("colorTo: red", "colorTo: orange"), "colorTo is orange"),
    (lambda t: t.replace('"3.12"', '"3.11"'), "python_version"),
    (lambda t: t.replace("short_description: ", "short_description: " + "x" * 60), "the limit is 60"),
    (lambda t: t.replace("app.py", "main.py"), "app_file is not there"),
    (lambda t: t.replace("license:", "hardware: a100\nlicense:"), "unknown field hardware"),
    (lambda t: t.replace("sdk_version: 6", "sdk_version: six"), "sdk must be gradio"),
    (lambda t: t.replace("---\n", ""), "no front matter"),
])
def test_a_front_matter_that_would_be_refused(space: ModuleType, folder: Path, change: Callable[[str], str], words: str) -> None:
    wrong = space.check_readme(change((folder / "README.md").read_text()), folder)
    assert any(words in line for line in wrong), wrong


@pytest.mark.parametrize(("line", "words"), [("gradio==6", "the platform's"), ("spaces", "the platform's"), ("torch==2.13", "not pinned"),
                                             ("x @ https://example.org/x.whl", "no package of the index"), ("-e .", "no package")])
def test_requirements_that_would_be_refused(space: ModuleType, folder: Path, line: str, words: str) -> None:
    text = "\n".join(each for each in (folder / "requirements.txt").read_text().splitlines() if not each.startswith(line[:5]))
    assert any(words in each for each in space.check_requirements(f"{text}\n{line}\n"))


def test_secrets_and_newer_torch_are_found(space: ModuleType, tmp_path: Path) -> None:
    (tmp_path / ".gitattributes").write_text("")
    (tmp_path / "a.py").write_text(f"token = 'hf_{'a' * 34}'")
    (tmp_path / "b.py").write_text("import torch\nfrom torch.optim import Muon\nx = torch.nn.functional.grouped_mm\ny = torch.cat")
    assert space.check_files(tmp_path) == ["a.py may hold a secret"]
    assert [line.split()[0] for line in space.check_torch(tmp_path)] == ["torch.nn.functional.grouped_mm", "torch.optim.Muon"]
