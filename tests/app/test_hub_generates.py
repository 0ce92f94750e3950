"""From a hub to a clip: a tiny true model is downloaded, then makes a video through the studio."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.history.records import JobState
from app.hub.fetch import main
from app.settings import Settings
from app.studio import open_studio
from tests.engine.tiny import save_tiny
from tests.hub_server import local_hub, repo_of


def test_a_downloaded_model_makes_a_clip(tmp_path: Path, own_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    import torch
    from huggingface_hub import constants

    torch.set_num_threads(1)
    with local_hub({"me/tiny": repo_of(save_tiny(tmp_path / "tiny"))}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("SPROCKET_MIN_FREE_BYTES", "0")
        huggingface_hub.close_session()
        studio = open_studio(Settings(data_dir=own_data_dir))
        try:
            studio.hub.ask("me/tiny")
            assert main(["me/tiny"]) == 0
            assert [spec.name for spec in studio.models()] == ["pocket", "pocket-i2v", "me/tiny"]
            job = studio.submit({"prompt": "a red fox", "model": "me/tiny", "steps": 2, "seed": 7, "frames": 9}, reserve=True)
            done = studio.run_here(job.id)
            said = f"{done.error_code}: {done.error}"
            assert done.state is JobState.DONE or done.error_code == "output_rejected", said  # random weights may draw a blank
            if done.clip_id:
                clip = studio.clip(done.clip_id)
                assert clip.model == "me/tiny" and "_tiny_s7_" in clip.file and clip.frames == 9
        finally:
            studio.close()
            huggingface_hub.close_session()
