"""`sprocket history publish | unpublish`: the public gallery of a shared studio, from its own machine."""

from __future__ import annotations

import json

import typer

from app.cli_common import DataDir, Json, opened, say
from app.history.records import Clip


def add_commands(history: typer.Typer) -> None:
    """Registers both."""

    @history.command("publish")
    def publish(clip_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
        """Let everybody who signs in to this studio look at one of your clips: video, prompt, model and settings."""
        with opened(data_dir) as studio:
            clip = studio.published.publish(clip_id)
        _told(clip, as_json, "Published: others see the video, its poster, the prompt, the model and the settings. Where nobody else signs "
                             "in, nobody else looks.")

    @history.command("unpublish")
    def unpublish(clip_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
        """Take a clip out of the public gallery, whosever it is."""
        with opened(data_dir) as studio:
            studio.published.take_down(clip_id)
            clip = studio.store.clips.get(clip_id)
        _told(clip, as_json, "Not published any more. What somebody has downloaded stays with them.")


def _told(clip: Clip, as_json: bool, words: str) -> None:
    if as_json:
        print(json.dumps({"id": clip.id, "published_at": clip.published_at}))
    else:
        say(words)
