"""Datasets on the Hugging Face hub: fetched into a folder of ours, then understood like any other folder. No code is run."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.errors import InvalidRequest
from engine.models.catalogue import is_hub_id
from training.data.archive import MAX_BYTES, USEFUL

TRUE = ("1", "true", "yes", "on")


def is_dataset_id(text: str) -> bool:
    """True for `owner/name` where no such folder is here."""
    return is_hub_id(text) and not Path(text).exists()


def fetch(repo: str, into: Path, revision: str | None = None, snapshot: Callable[..., Any] | None = None) -> str:
    """The useful files of the dataset `repo` below `into`; the commit they are of.

    `snapshot`: instead of `huggingface_hub.snapshot_download`. Raises InvalidRequest (field 'source') saying what the hub said.
    """
    from huggingface_hub import HfApi, get_session, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    http: Any = importlib.import_module(type(get_session()).__module__.partition(".")[0])  # as in app/hub/remote.py
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in TRUE:
        raise InvalidRequest("source", f"{repo} is on the hub, and HF_HUB_OFFLINE is set. Unset it, or give a folder on this machine.")
    patterns = [f"*{ending}" for ending in USEFUL] + [f"*{ending.upper()}" for ending in USEFUL]
    try:
        facts = HfApi().dataset_info(repo, revision=revision, files_metadata=True)
        size = sum(each.size or 0 for each in facts.siblings or () if Path(each.rfilename).suffix.lower() in USEFUL)
        if size > MAX_BYTES or size > shutil.disk_usage(into.parent).free:
            raise InvalidRequest("source", f"{repo} has {size / 1e9:,.1f} GB; at most {MAX_BYTES / 1e9:.1f} GB, and no more than the disk "
                                           "has free, are fetched. Take a part of it and give the folder.")
        (snapshot or snapshot_download)(repo, repo_type="dataset", revision=facts.sha, allow_patterns=patterns, local_dir=into)
        return str(facts.sha)
    except (HfHubHTTPError, LocalEntryNotFoundError, http.HTTPError, OSError, ValueError) as error:
        raise InvalidRequest("source", f"{repo} cannot be fetched from the hub ({str(error).partition(chr(10))[0][:160]}). Is its name "
                                       "right, is it public or are you logged in (`hf auth login`), is there a network?") from error
