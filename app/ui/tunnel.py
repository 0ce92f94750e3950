"""An address on the internet for this server, through gradio's relay. Opened only by `sprocket serve --share`."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit

from engine.errors import SprocketError


class NoTunnel(SprocketError):
    """The relay does not answer, or its program cannot be fetched."""

    code = "no_tunnel"


_names: list[str] = []
"""Of this process's tunnels."""


@dataclass(frozen=True, slots=True)
class OpenTunnel:
    """A running tunnel; `close()` it."""

    url: str
    process: object

    def close(self) -> None:
        self.process.kill()  # type: ignore[attr-defined]


def open_tunnel(port: int) -> OpenTunnel:
    """Asks the relay and lets its host name in. Raises NoTunnel.

    Fetches gradio's tunnel program at the first use and connects to gradio's server: the one thing here that calls out by itself,
    and only because it was asked to.
    """
    from gradio import networking
    from gradio.tunneling import CURRENT_TUNNELS

    try:
        url = networking.setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # gradio raises bare ones
        raise NoTunnel(f"No address on the internet could be opened ({str(error)[:120]}). Without --share the studio still works here; a "
                       "reverse proxy of your own does not need gradio's relay.") from error
    let_in(urlsplit(url).hostname or "")
    _names.append(url)
    return OpenTunnel(url, CURRENT_TUNNELS[-1])


def is_shared() -> bool:
    """Do visitors come in through a tunnel? To the server they look as if they were on this machine."""
    return bool(_names)


def let_in(name: str) -> None:
    """Adds a host name to those the guard answers to; call before the site is built."""
    listed = os.environ.get("SPROCKET_ALLOWED_HOSTS", "")
    os.environ["SPROCKET_ALLOWED_HOSTS"] = ",".join(filter(None, (listed, name)))
