"""LoRAs through the studio and the command line: kept by their hash, named in recipes, refused in words."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from app.cli_loras import split_weight
from app.errors import NotAllowed, NotFound
from app.history.records import Job, JobState
from app.refining import Refining
from app.studio import Studio
from engine.errors import InvalidRequest
from engine.refine import Refinement
from tests import fakes
from tests.app.test_cli import Run
from tests.app.test_modes import pixels
from tests.lora_files import lora_weights, save_lora

Work = Callable[[], Job | None]
SHORT = ("--steps", "2", "--seed", "5", "--frames", "9")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.engine.tiny import save_tiny

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    save_tiny(folder / "words", "rope")
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capfd)


@pytest.fixture
def fox(models: Path, tmp_path: Path) -> Path:
    """A LoRA for the model 'words'."""
    return save_lora(tmp_path / "my fox.safetensors", lora_weights(models / "words"), metadata={"trigger_word": "zwx"})


@pytest.fixture
def fake(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake engine's model has the layers of 'words'."""
    monkeypatch.setenv("SPROCKET_ENGINE", "tests.fakes:FakeEngine")
    monkeypatch.setattr(fakes, "SPEC", replace(fakes.SPEC, path=models / "words"))


def test_refining_knows_the_loras_and_the_start(run: Run, fake: None, fox: Path, own_data_dir: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    true = Refining.refine

    def refine(self: Refining, text: str, **how: Any) -> Refinement:
        asked.append(how)
        return true(self, text, **how)
    monkeypatch.setattr(Refining, "refine", refine)
    words = ("--prompt", "zwx ball goes up fast, beach", "--refine", "auto", "--lora", f"{fox}:0.5")
    made = run.json("generate", *words)
    assert "zwx" in made["recipe"]["request"]["prompt"] and made["recipe"]["loras"][0]["weight"] == 0.5
    assert run("generate", *words, "--extend", "0" * 32)[0] != 0  # there is no such clip
    assert [how["purpose"] for how in asked] == ["text-to-video", "image-to-video"]


def test_the_same_video_again_with_its_loras(run: Run, models: Path, fox: Path, own_data_dir: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """With the true engine: the LoRA does something, the recipe carries it, a restored command makes the same pixels."""
    monkeypatch.setenv("SPROCKET_MODELS_DIR", str(models))
    other = save_lora(tmp_path / "other.safetensors", lora_weights(models / "words", seed=9), alpha=2.0)
    made = run.json("generate", "--prompt", "a fox", "--model", "words", "--lora", f"{fox}:0.75", "--lora", str(other), *SHORT)
    plain = run.json("generate", "--prompt", "a fox", "--model", "words", *SHORT)
    assert pixels(made["path"]).tobytes() != pixels(plain["path"]).tobytes()
    [first, second] = made["recipe"]["loras"]
    assert made["recipe"]["request"]["loras"] == [[first["name"], 0.75], [second["name"], 1.0]]
    assert (first["file"], first["weight"], first["rank"], first["trigger"]) == ("my fox.safetensors", 0.75, 4, "zwx")
    assert (second["file"], second["alpha"]) == ("other.safetensors", 2.0)
    assert plain["recipe"]["loras"] == plain["recipe"]["request"]["loras"] == []
    assert str(tmp_path) not in json.dumps(made["recipe"])
    assert json.loads(Path(made["path"]).with_suffix(".json").read_text())["loras"] == [first, second]

    for file in (fox, other):
        file.unlink()  # the copies are the studio's own; restoring names them
    _code, line, _err = run("history", "restore", made["clip"])
    again = run.json(*shlex.split(line)[1:])
    assert pixels(again["path"]).tobytes() == pixels(made["path"]).tobytes()
    assert again["recipe"]["loras"] == [first, second]

    run.json("loras", "delete", "my fox.safetensors")
    restored = run.json("history", "restore", made["path"])
    assert restored["missing_loras"] == [f"my fox.safetensors ({first['name'][:12]}...)"]
    _code, line, err = run("history", "restore", made["clip"])
    assert "my fox.safetensors" in err and "needed to make this clip again" in err
    code, out, _err = run(*shlex.split(line)[1:], "--json")
    error = json.loads(out)["error"]
    assert (code, error["field"]) == (2, "loras") and "not among the LoRAs" in error["message"]


def test_add_list_delete(run: Run, fox: Path, fake: None, own_data_dir: Path, tmp_path: Path) -> None:
    assert run.json("loras", "list") == {"loras": []}
    [card] = run.json("loras", "add", str(fox))["loras"]
    assert (card["file"], card["rank"], card["alpha"], card["blocks"], card["width"], card["trigger"]) == (
        "my fox.safetensors", 4, 4.0, 3, 32, "zwx")
    copied = tmp_path / "the same.safetensors"
    copied.write_bytes(fox.read_bytes())
    _code, out, err = run("loras", "add", str(copied), str(fox))
    assert out.split() == [card["name"]] * 2 and "does not say its alpha" in err
    [listed] = run.json("loras", "list")["loras"]
    assert listed == card | {"fits": ["pocket"]}
    assert run("loras", "list")[1].split()[0] == card["name"][:12]
    assert {path.name for path in (own_data_dir / "loras").iterdir()} == {card["name"], card["name"].replace("safetensors", "json")}
    code, _out, err = run("loras", "delete", "nothing")
    assert code == 2 and "No LoRA 'nothing' is in this studio" in err
    assert run.json("loras", "delete", card["name"][:8]) == {"deleted": card["name"]}
    assert run.json("loras", "list") == {"loras": []} and list((own_data_dir / "loras").iterdir()) == []


def test_a_lost_record_is_made_again(studio: Studio, fox: Path) -> None:
    card = studio.loras.add(fox)
    for content in (None, "", "[]", '{"layers": 5}', "[" * 10_000):
        record = studio.loras.folder / card.name.replace("safetensors", "json")
        record.unlink() if content is None else record.write_text(content)
        again = studio.loras.card(card.name)
        assert replace(again, added_at=card.added_at) == replace(card, file="")
    (studio.loras.folder / f"{'0' * 64}.safetensors").write_bytes(b"junk")
    assert [each.name for each in studio.loras.cards()] == [card.name]
    for name in ("../../etc/passwd", "x", f"{'1' * 64}.safetensors"):
        with pytest.raises(NotFound):
            studio.loras.card(name)


def test_jobs_keep_their_loras_and_hold_them(studio: Studio, fox: Path, fake: None, work_once: Work) -> None:
    card = studio.loras.add(fox)
    job = studio.submit({"prompt": "x", "loras": [[card.name, 0.5]]})
    assert "LoRA" in job.notes[-1] and "0.5" in job.notes[-1]
    assert studio.forecast({"prompt": "x", "loras": [[card.name, 0.5]]}).memory_bytes > studio.forecast({"prompt": "x"}).memory_bytes
    assert studio.duplicate(job.id).request["loras"] == [[card.name, 0.5]]
    with pytest.raises(NotAllowed, match=r"my fox\.safetensors is used by a job"):
        studio.loras.delete("my fox.safetensors")
    done = work_once()
    assert done is not None and done.clip_id is not None
    wish = studio.clip_request(done.clip_id)
    assert wish.loras == ((card.name, 0.5),)
    assert studio.request_from_file(studio.clip_path(done.clip_id)) == wish
    assert studio.request_from_file(studio.clip_path(done.clip_id).with_suffix(".json")) == wish
    assert studio.missing_loras(done.clip_id) == []


def test_a_lora_that_is_not_there_or_does_not_fit_stores_no_job(studio: Studio, fox: Path, fake: None, models: Path,
                                                                tmp_path: Path) -> None:
    wrong = studio.loras.add(save_lora(tmp_path / "wide.safetensors", {
        name: (torch.zeros(4, 48), torch.zeros(48, 4)) for name in lora_weights(models / "words")}))
    assert not wrong.fits(fakes.SPEC) and studio.loras.add(fox).fits(fakes.SPEC)
    for name, says in ((wrong.name, "of 48 x 48; that of pocket is 32 x 32"), (f"{'0' * 64}.safetensors", "not among the LoRAs")):
        for ask in (studio.submit, studio.forecast):
            with pytest.raises(InvalidRequest, match=says) as caught:
                ask({"prompt": "x", "loras": [[name, 1.0]]})
            assert caught.value.field == "loras"
    assert studio.jobs() == ()


def test_a_lora_that_goes_while_its_job_waits_fails_the_job_in_words(studio: Studio, fox: Path, fake: None, work_once: Work) -> None:
    card = studio.loras.add(fox)
    studio.submit({"prompt": "x", "loras": [[card.name, 0.5]]})
    (studio.loras.folder / card.name).unlink()
    after = work_once()
    assert after is not None and (after.state, after.error_code) == (JobState.FAILED, "invalid_request")
    assert "not among the LoRAs" in (after.error or "")


@pytest.mark.parametrize(("option", "says"), [
    ("{fox}:heavy", "ends in 'heavy', which is no weight"), ("{fox}:", "no weight"), ("{fox}:9", "-4 to 4"), ("{fox}:nan", "-4 to 4"),
    ("{fox}:1e999", "-4 to 4"), ("nowhere.safetensors:0.5", "no such file"), ("nowhere.safetensors", "no such file"),
    ("C:\\loras\\fox.safetensors", "no such file"), ("{folder}", "no such file"), ("{pickle}", "is a pickle"), ("{empty}", "is empty"),
    ("{text}:0.5", "no safetensors file"), ("f" * 64 + ".safetensors:0.5", "not among the LoRAs")])
def test_refusals_name_the_field_and_keep_nothing(run: Run, fake: None, fox: Path, own_data_dir: Path, tmp_path: Path, option: str,
                                                  says: str) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pt")
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "text.safetensors").write_text("404: not found, and more of it")
    text = option.format(fox=fox, folder=tmp_path, pickle=tmp_path / "x.pt", empty=tmp_path / "empty.safetensors",
                         text=tmp_path / "text.safetensors")
    code, out, err = run("generate", "--prompt", "a", "--lora", text, "--json")
    assert code == 2, err
    error = json.loads(out)["error"]
    assert error["field"] == "loras" and says in error["message"] and len(error["message"]) < 600
    assert not (own_data_dir / "loras").exists() or list((own_data_dir / "loras").iterdir()) == []
    assert run.json("queue", "list") == {"jobs": []}


def test_nine_loras_are_one_too_many(run: Run, fake: None, fox: Path) -> None:
    code, out, _err = run("generate", "--prompt", "a", *["--lora", str(fox)] * 9, "--json")
    assert code == 2 and "at most 8" in json.loads(out)["error"]["message"]
    code, out, _err = run("generate", "--prompt", "a", *["--lora", str(fox)] * 2, "--json")
    assert code == 2 and "twice" in json.loads(out)["error"]["message"]


def test_a_colon_may_be_a_weight_a_drive_or_a_name(tmp_path: Path) -> None:
    assert split_weight("fox.safetensors") == ("fox.safetensors", 1.0)
    assert split_weight("fox.safetensors:-0.5") == ("fox.safetensors", -0.5)
    assert split_weight("C:\\loras\\fox.safetensors") == ("C:\\loras\\fox.safetensors", 1.0)
    assert split_weight("C:/loras/fox.safetensors:.8") == ("C:/loras/fox.safetensors", 0.8)
    assert split_weight("C:fox.safetensors") == ("C:fox.safetensors", 1.0)
    assert split_weight("a:b/fox.safetensors") == ("a:b/fox.safetensors", 1.0)
    odd = tmp_path / "fox:2"
    odd.write_bytes(b"x")
    assert split_weight(str(odd)) == (str(odd), 1.0)
    assert split_weight(f"{odd}:3") == (str(odd), 3.0)
