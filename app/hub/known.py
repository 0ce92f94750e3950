"""The published checkpoints this engine runs, as their authors describe them. What is true of a copy is read from its configs.

Sources: the model cards at https://huggingface.co/zai-org and the README of https://github.com/zai-org/CogVideo. Sizes to
download are sums of the safetensors files (rounded); the exact one is known as soon as the hub has been asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.models.catalogue import MOVED_OWNERS, is_hub_id

TEXT, IMAGE = "text to video", "image to video"
APACHE = ("Apache 2.0", "https://huggingface.co/zai-org/CogVideoX-2b/blob/main/LICENSE")
COGVIDEOX = ("CogVideoX licence", "https://huggingface.co/zai-org/CogVideoX-5b/blob/main/LICENSE")


@dataclass(frozen=True, slots=True)
class Known:
    """One published checkpoint."""

    repo: str
    title: str
    about: str
    task: str
    """`TEXT` or `IMAGE`."""
    width: int
    height: int
    frames: int
    fps: float
    download_bytes: int
    """About; of what would be fetched."""
    memory: str
    """What it asks of a graphics card, in words: the least by its makers' account, and what its weights take."""
    licence: str
    licence_url: str


KNOWN = (
    Known("zai-org/CogVideoX-2b", "CogVideoX 2B", "The small one: quickest, runs on modest cards.", TEXT, 720, 480, 49, 8.0,
          13_780_000_000, "A graphics card with 4 GB or more; 16 GB holds all of it", *APACHE),
    Known("zai-org/CogVideoX-5b", "CogVideoX 5B", "Better pictures and motion than 2B, at twice the time.", TEXT, 720, 480, 49, 8.0,
          21_100_000_000, "A graphics card with 5 GB or more; 24 GB holds all of it", *COGVIDEOX),
    Known("zai-org/CogVideoX-5b-I2V", "CogVideoX 5B I2V", "Sets a picture of yours in motion.", IMAGE, 720, 480, 49, 8.0,
          21_200_000_000, "A graphics card with 5 GB or more; 24 GB holds all of it", *COGVIDEOX),
    Known("zai-org/CogVideoX1.5-5B", "CogVideoX 1.5 5B", "Larger and longer: 1360 × 768, 16 frames a second.", TEXT, 1360, 768, 81, 16.0,
          21_100_000_000, "A graphics card with 10 GB or more; 24 GB holds its weights", *COGVIDEOX),
    Known("zai-org/CogVideoX1.5-5B-I2V", "CogVideoX 1.5 5B I2V", "Sets a picture in motion, large and long.", IMAGE, 1360, 768, 81, 16.0,
          21_200_000_000, "A graphics card with 10 GB or more; 24 GB holds its weights", *COGVIDEOX),
)
BY_REPO = {model.repo: model for model in KNOWN}


def current_id(repo: str) -> str:
    """The id under which the hub knows a published checkpoint today; any other id as it is."""
    owner, _, name = repo.partition("/")
    moved = f"{MOVED_OWNERS.get(owner, owner)}/{name}"
    matches = [known for known in BY_REPO if known.lower() == moved.lower()]
    return matches[0] if matches and is_hub_id(repo) else repo
