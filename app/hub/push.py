"""A run's LoRA onto the hub: its file, its card and the preview clips the card shows, in one commit of the library's own.

Only whoever asks for it sends anything; the token is the library's (HF_TOKEN or `hf auth login`). Nothing else of the run is sent.
"""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token

from app.errors import HubGated
from app.hub.remote import told
from engine.errors import InvalidRequest
from training.lora.rundir import RunDir

REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
SHOWN = re.compile(r"\.\./previews/([\w./-]+?\.mp4)")
"""How a card names preview clips of its run (`training.lora.card`)."""


def parts_of(folder: Path) -> dict[str, Path | bytes]:
    """Path in the repository -> file or bytes, of a run's folder. Raises `InvalidRequest` (run) where no LoRA has been written."""
    files = sorted((folder / "lora").glob("*.safetensors"))
    if not files and _method(folder) != "lora":
        what = "all weights" if _method(folder) == "full" else "stage two"
        raise InvalidRequest("run", f"{folder} trains {what}: what it makes is a model, in {folder / 'model'} once it was saved, and only "
                                    "LoRAs are sent. The library's own `hf upload` sends a folder.")
    if not files:
        raise InvalidRequest("run", f"{folder} holds no LoRA yet. Press Save now on its page, or let it end; then push it.")
    parts: dict[str, Path | bytes] = {path.name: path for path in files}
    card = folder / "lora" / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8")
        for shown in sorted(set(SHOWN.findall(text))):
            clip = folder / "previews" / shown
            if ".." not in shown and clip.is_file():
                parts[f"previews/{shown}"] = clip
        parts["README.md"] = SHOWN.sub(r"previews/\1", text).encode()
    return parts


def _method(folder: Path) -> str:
    try:
        return RunDir(folder).read()[0].method
    except InvalidRequest:
        return "lora"


def push(folder: Path, repo: str, *, private: bool = True) -> str:
    """Sends the run in `folder` to `repo` ('owner/name'), which is made where it is not there; the commit's address.

    Raises `InvalidRequest` for an id that is none, a run without a LoRA and a repository that is public where `private` is wished,
    HubGated without a token or without the right to write, HubMissing, HubOffline, HubUnreachable.
    """
    if not REPO.fullmatch(repo):
        raise InvalidRequest("repo", f"is {repo[:60]!r}, which is no id of a repository. Write it as owner/name.")
    parts = parts_of(folder)
    if not get_token():
        raise HubGated("Sending needs a token of yours that may write: put it into HF_TOKEN, or run `hf auth login`.")
    api = HfApi(library_name="sprocket")
    with told(repo, None):
        made = api.create_repo(repo, private=private, exist_ok=True)  # one that is there stays as public as it is
        if private and not api.repo_info(made.repo_id).private:
            raise InvalidRequest("repo", f"{made.repo_id} is public already, and nothing was sent. Say --public to publish the LoRA in it, "
                                         "or choose another repository.")
        sent = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=part if isinstance(part, bytes) else str(part))
                for name, part in parts.items()]
        return str(api.create_commit(made.repo_id, sent, commit_message="A LoRA, trained with Sprocket").commit_url)
