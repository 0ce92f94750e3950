"""The studio as a server: history, supervisor with its worker, downloads, pages; closed in the reverse order."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator

from app.allocator import few_arenas
from app.hub.keeper import Keeper
from app.logs import set_up_logs
from app.queue.supervisor import Supervisor
from app.settings import Settings
from app.sharing.opening import access_for, is_loopback
from app.sharing.settings import SharingSettings
from app.studio import Studio, open_studio
from engine.errors import InvalidRequest


def serve_from_settings(settings: Settings | None = None, *, public: bool = False, share: bool = False) -> None:
    """Serves until SIGINT or SIGTERM. `public`: nobody signs in, though others reach it; `share`: also on the internet.

    Raises InvalidRequest (host, port), DataDirBusy (another server works on this data folder), SchemaTooNew, StorageBlocked.
    """
    set_up_logs()
    few_arenas()
    from app.ui.server import serve
    from app.ui.tunnel import open_tunnel

    settings = settings or Settings()
    sharing = SharingSettings(**({"public": True} if public else {}))
    os.environ["SPROCKET_DATA_DIR"] = str(settings.data_dir)  # also for what asks the environment in this process
    os.environ.pop("SPROCKET_METRICS_TOKEN", None)  # read; the worker and whatever it starts need not have it
    access = access_for(sharing, settings.data_dir, reachable=share or not is_loopback(settings.host))
    if share and sharing.proxy_header:
        raise InvalidRequest("share", "and SPROCKET_PROXY_HEADER do not go together: what comes through the tunnel looks like the proxy.")
    port = _free_port(settings.host, settings.port)
    with contextlib.ExitStack() as stack:
        studio = stack.enter_context(at_work(settings))
        _announce(settings, port, signed_in=access is not None)
        if share:
            tunnel = open_tunnel(port)
            stack.callback(tunnel.close)
            sys.stderr.write(shared_words(tunnel.url, signed_in=access is not None))
        serve(studio, settings.host, port, access)


@contextlib.contextmanager
def at_work(settings: Settings, *, worker: bool = True) -> Iterator[Studio]:
    """The studio with what works behind it: downloads, and a worker unless jobs run inside the events of the page."""
    with contextlib.ExitStack() as stack:
        for work in ([Supervisor(settings)] if worker else []) + [Keeper(settings)]:
            work.start()
            stack.callback(work.close)
        studio = open_studio(settings)
        stack.callback(studio.close)
        yield studio


def _free_port(host: str, port: int) -> int:
    """`port`, or any free one for 0. Asked before the worker starts, so that a wrong address costs nothing."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except socket.gaierror as error:
        raise InvalidRequest("host", f"{host!r} is not an address of this machine ({error.strerror}). Use 127.0.0.1.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InvalidRequest("port", f"{port} is taken, perhaps by another Sprocket. Choose another, or 0 for any free one.",
                                 suggestion=0) from error
        raise InvalidRequest("port", f"{host}:{port} cannot be used ({error.strerror}). Choose another.") from error


def shared_words(url: str, *, signed_in: bool) -> str:
    """What is said of an address on the internet."""
    if signed_in:
        return f"It is also at {url}, for everybody who can sign in.\n"
    return (f"It is also at {url}. Warning: that is on the internet, and nobody is asked to sign in: whoever has the address can see and "
            "change everything. Add somebody with `sprocket users add NAME --role admin` and leave --i-know-this-is-public out to change "
            "that.\n")


def _announce(settings: Settings, port: int, *, signed_in: bool) -> None:
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    sys.stderr.write(f"Sprocket is at http://{shown}:{port}  (clips in {settings.media_dir}; Ctrl+C stops)\n")
    if not signed_in and not is_loopback(settings.host):
        sys.stderr.write(f"Warning: {settings.host} can be reached from other machines, and nobody is asked to sign in: whoever "
                         "reaches it can see and change everything.\n")
    sys.stderr.flush()

