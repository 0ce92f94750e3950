"""Which addresses a refiner may be called at. The operator names the server; nobody else does, and no answer leads elsewhere.

    checked(url, key)    the address as it will be called, or InvalidRequest with what is wrong
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from engine.errors import InvalidRequest
from engine.refine.result import RefinerFailed

FIELD = "refiner_url"
EXAMPLE = "Use for example http://127.0.0.1:11434/v1 (Ollama) or https://router.huggingface.co/v1."
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Server:
    """A base URL that has been looked at. `url` holds no user name, no password and no query."""

    url: str
    host: str
    port: int
    secure: bool

    @property
    def shown(self) -> str:
        """For people: host and port, no path."""
        return f"{self.host}:{self.port}"


def parsed(url: str) -> Server:
    """The server of a base URL. Raises InvalidRequest; the message never repeats what may be a password."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise InvalidRequest(FIELD, f"is no address. {EXAMPLE}") from None
    if parts.scheme not in ("http", "https"):
        raise InvalidRequest(FIELD, f"must begin with http:// or https://, not {parts.scheme[:20] or 'nothing'!r}. {EXAMPLE}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InvalidRequest(FIELD, "must hold no user name, password or query. The key belongs into SPROCKET_REFINER_KEY.")
    if not parts.hostname or any(char.isspace() for char in url.strip()):
        raise InvalidRequest(FIELD, f"names no host. {EXAMPLE}")
    secure = parts.scheme == "https"
    host = parts.hostname
    shown = f"[{host}]" if ":" in host else host
    at = f":{port}" if port else ""
    return Server(f"{parts.scheme}://{shown}{at}{parts.path.rstrip('/')}", host, port or (443 if secure else 80), secure)


def refused(address: Address, *, secure: bool, key: bool) -> str:
    """Why a server at `address` is not called; '' if it may be. Networks of one's own are fine: that is where models run."""
    plain = getattr(address, "ipv4_mapped", None) or address
    if plain.is_unspecified or plain.is_multicast:
        return "is no address of a server"
    if plain.is_link_local:  # 169.254.169.254 hands out a cloud machine's credentials
        return "is a link-local address, where clouds keep their machines' credentials"
    if key and not secure and not (plain.is_loopback or plain.is_private):
        return "is on the internet, and the key would travel there unencrypted; use https"
    return ""


def resolved(server: Server, *, key: bool) -> tuple[str, ...]:
    """The numeric addresses of `server`, each allowed. Raises InvalidRequest, RefinerFailed (the name is not known)."""
    try:
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise RefinerFailed(f"The refiner's server {server.shown} is not known by that name. Check SPROCKET_REFINER_URL and the "
                            "network.") from None
    numbers = tuple(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    for number in numbers:
        if reason := refused(ipaddress.ip_address(number), secure=server.secure, key=key):
            raise InvalidRequest(FIELD, f"leads to {number}, which {reason}.")
    return numbers
