from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.lora_tools import base_of


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_of(tmp_path_factory.mktemp("base"))
