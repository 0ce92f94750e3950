"""What an attacker or a clumsy user can hand over from outside: settings, options, tampered files, unlucky moments."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from app.errors import HistoryDamaged
from app.history.opening import rebuild
from app.history.records import Job
from app.history.recovery import place_files
from app.settings import Settings
from app.studio import Studio, open_studio
from engine.errors import InvalidRequest

Work = Callable[[], Job | None]


@pytest.mark.parametrize(("name", "value", "says"), [
    ("port", "abc", "valid integer"), ("port", "99999", "65535"), ("lease_seconds", "-1", "greater than 0"),
    ("data_dir", "~nobody-has-this-name/x", "home folder"),
])
def test_a_wrong_setting_is_named_with_its_value_and_limit(name: str, value: str, says: str,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SPROCKET_{name.upper()}", value)
    with pytest.raises(InvalidRequest) as refused:
        Settings()
    assert refused.value.field == name
    assert value in str(refused.value) and says in str(refused.value) and f"SPROCKET_{name.upper()}" in str(refused.value)


def test_a_data_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidRequest, match="no folder can be made there"):
            Settings(data_dir=folder).make_folders()


@pytest.mark.parametrize(("arguments", "field"), [
    (["generate", "--prompt", "x", "--seed", "abc"], "seed"), (["generate"], "prompt"), (["generate", "--wings", "2"], None),
    (["history", "list", "--page", "0"], "page"),
])
def test_wrong_options_are_answered_in_json_too(arguments: list[str], field: str | None, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["sprocket", *arguments, "--json", "--data-dir", str(tmp_path / "data")])
    with pytest.raises(SystemExit) as ended:
        main()
    answer = json.loads(capsys.readouterr().out)["error"]
    assert (ended.value.code, answer["code"], answer["field"]) == (2, "invalid_request", field)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("harm", [
    {"fps": 0}, {"fps": -8.0}, {"created_at": 1e300}, {"trashed_at": -1e12}, {"frames": 0}, {"name": "n" * 10_000},
])
def test_a_sidecar_no_page_could_show_is_not_believed(harm: dict[str, Any], studio: Studio, work_once: Work) -> None:
    """The mp4's own recipe takes its place, so the clip is not lost."""
    sidecar = _one_clip(studio, work_once)
    values = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(values | {"clip": values["clip"] | harm}))
    _rebuilt_and_shown(studio)


@pytest.mark.parametrize("harm", ['{"x": NaN}', '{"x": 1e400}', r'{"x": "\ud800"}', r'{"\udfff": 1}'])
def test_a_recipe_that_cannot_be_written_again_is_not_believed(harm: str, studio: Studio, work_once: Work) -> None:
    sidecar = _one_clip(studio, work_once)
    text = sidecar.read_text()
    sidecar.write_text(text[: text.rindex("}")] + f', "evil": {harm}}}')
    with pytest.raises(InvalidRequest, match="damaged recipe"):
        studio.request_from_file(sidecar)
    _rebuilt_and_shown(studio)


@pytest.mark.parametrize("harm", ["9" * 400, "-5", "1e308"])
def test_absurd_timings_in_a_recipe_do_not_spoil_the_forecast(harm: str, studio: Studio, work_once: Work) -> None:
    sidecar = _one_clip(studio, work_once)
    values = json.loads(sidecar.read_text())
    text = json.dumps(values | {"seconds": dict.fromkeys(values["seconds"], "HARM")}).replace('"HARM"', harm)
    sidecar.write_text(text)
    studio.close()
    rebuild(studio.settings)
    again = open_studio(studio.settings)
    seconds = again.forecast({"prompt": "two"}).seconds
    assert seconds is None or 0 <= seconds < 1e9
    again.close()


def test_a_file_that_gets_its_row_while_recovery_looks_stays(studio: Studio, work_once: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery of `sprocket generate` beside a server: the worker's row lands between listing the rows and adopting."""
    video = _one_clip(studio, work_once).with_suffix(".mp4")
    monkeypatch.setattr(type(studio.store.clips), "files", lambda self: ())
    place_files(studio.settings, studio.store, 0.0)
    assert video.is_file() and list(studio.settings.trash_dir.iterdir()) == []


def test_held_jobs_are_read_before_the_rows(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    store = studio.store

    def noted(owner: Any, name: str) -> None:
        real = getattr(owner, name)
        monkeypatch.setattr(type(owner), name, lambda self: (order.append(name), real())[1])

    noted(store.leases, "held")
    noted(store.clips, "files")
    place_files(studio.settings, store, 0.0)
    assert order == ["held", "files"]


def test_a_history_damaged_under_a_running_server_is_said_with_the_way_out() -> None:
    class Damaged:
        def status(self) -> None:
            raise HistoryDamaged("The history is damaged (<malformed>).")

    from app.ui.server import healthz

    answer = healthz(Damaged())
    said = json.loads(bytes(answer.body))
    assert (answer.status_code, said["ok"]) == (503, False)
    assert "&lt;malformed&gt;" in said["error"] and "Stop Sprocket and start it again" in said["error"]


def _one_clip(studio: Studio, work_once: Work) -> Path:
    """Its sidecar."""
    studio.submit({"prompt": "one", "seed": 1})
    work_once()
    return studio.clip_path(studio.clips().clips[0].id).with_suffix(".json")


def _rebuilt_and_shown(studio: Studio) -> None:
    clip = studio.clips().clips[0]
    studio.close()
    assert rebuild(studio.settings) == 1
    again = open_studio(studio.settings)
    found = again.clip(clip.id)
    assert (found.fps, found.frames, found.prompt) == (clip.fps, clip.frames, "one")
    json.dumps(found.recipe, ensure_ascii=False, allow_nan=False).encode()
    again.close()
