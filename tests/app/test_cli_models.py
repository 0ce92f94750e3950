"""`sprocket models` through its own entry point, with the hub of the tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.hub import downloads as going
from app.settings import Settings
from engine.models.catalogue import pocket_dir
from tests.app.test_cli import Run
from tests.hub_server import LocalHub, Repo, local_hub, repo_of
from tests.site import wait_for

ROOT = Path(__file__).resolve().parents[2]
REPO = "me/pocket"
VAE = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capfd)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    files = repo_of(pocket_dir()).files
    repos = {REPO: Repo(dict(files)), "me/gated": Repo(files, gated=True), "me/huge": Repo(files, promised={VAE: {"size": 10**15}}),
             "me/wan": Repo(files | {"model_index.json": b'{"_class_name": "WanPipeline"}'})}
    with local_hub(repos) as running:
        for name, value in (running.env | {"SPROCKET_MIN_FREE_BYTES": "0"}).items():
            monkeypatch.setenv(name, value)
        yield running


def test_download_stopped_by_ctrl_c_goes_on_then_verify_and_delete(run: Run, hub: LocalHub, own_data_dir: Path) -> None:
    hub.faults.bytes_per_second = 5e5
    # A test run in the background of a shell hands on an ignored SIGINT; a terminal does not.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from app.cli import main; main()"
    first = subprocess.Popen([sys.executable, "-c", program, "models", "download", REPO], cwd=ROOT, text=True, stderr=subprocess.PIPE,
                             env=dict(os.environ))
    wait_for(lambda: hub.bodies() > 2_000_000, "two megabytes")
    first.send_signal(signal.SIGINT)
    _out, err = first.communicate(timeout=60)
    assert first.returncode != 0 and "what has come stays" in err and "Traceback" not in err
    hub.faults.bytes_per_second = 0
    before, whole = hub.bodies(), sum(len(data) for path, data in hub.repos[REPO].files.items() if path.endswith(".safetensors"))
    made = run.json("models", "download", REPO)
    assert (made["name"], made["state"], made["revision"]) == (REPO, "ready", hub.repos[REPO].revision)
    assert hub.bodies() - before < whole - 1_000_000
    report = run.json("models", "verify")
    assert report["ok"] and {m["name"]: m["checked"] for m in report["models"]} == {"pocket": 0, "pocket-i2v": 0, REPO: 12}
    assert run("models", "download", REPO)[0] == 1  # it is here already
    (Path(made["folder"]) / "vae" / "config.json").write_text("{}")
    code, out, _err = run("models", "verify", REPO)
    assert code == 1 and "vae/config.json has changed" in out
    assert run("models", "delete", REPO)[0] == 0 and not Path(made["folder"]).exists()


def test_delete_takes_a_model_and_its_unfinished_download(run: Run, own_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    folder = Settings(data_dir=own_data_dir).models_dir
    shutil.copytree(pocket_dir(), folder / "me--pocket")
    going.ask(folder, REPO, "v2")
    code, _out, err = run("models", "delete", REPO)
    assert (code, going.download(folder, REPO), (folder / "me--pocket").exists()) == (0, None, False)
    assert f"download of {REPO} was deleted" in err and f"\n{REPO} was deleted." in err
    going.ask(folder, REPO, "v2")
    code, _out, err = run("models", "delete", REPO)
    assert code == 0 and f"\n{REPO} was deleted." not in err  # there was no model


@pytest.mark.parametrize(("model", "code", "error", "says"), [
    ("me/gated", 1, "hub_gated", "HF_TOKEN"), ("me/huge", 3, "cannot_fit", "Free "), ("me/wan", 2, "model_invalid", "WanPipeline"),
    ("../x", 2, "invalid_request", "owner/name")])
def test_refusals_have_codes_and_say_what_to_do(run: Run, hub: LocalHub, own_data_dir: Path, model: str, code: int, error: str,
                                                says: str) -> None:
    exited, out, err = run("models", "download", model, "--json")
    assert (exited, json.loads(out)["error"]["code"]) == (code, error)
    assert says in err and hub.bodies() == 0


def test_the_list_has_what_is_here_and_what_could_be(run: Run, hub: LocalHub, own_data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = run.json("models", "list")
    assert [m["name"] for m in listed["models"]] == ["pocket", "pocket-i2v"] and listed["models"][0]["native_frames"] == 25
    assert "zai-org/CogVideoX1.5-5B-I2V" in [m["name"] for m in listed["available"]]
    assert run.json("models", "add", str(pocket_dir())) == {"name": "pocket"}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _code, out, err = run("models", "list")
    assert "CogVideoX-2b" in out and "13.8 GB to fetch" in out and "HF_HUB_OFFLINE is set" in err
    code, _out, err = run("models", "download", REPO)
    assert code == 1 and "HF_HUB_OFFLINE" in err
