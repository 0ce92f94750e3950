"""Put first on PYTHONPATH, every Python process refuses connections and look-ups that leave this machine, and notes each."""

import ipaddress
import os
import socket
import traceback

NOTES = os.environ["OUTSIDE_CALLS"]
HERE = {"localhost", "", None, socket.gethostname()}


def outside(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    if host in HERE:
        return False
    try:
        address = ipaddress.ip_address(str(host).split("%")[0])
    except ValueError:
        return True
    return not (address.is_loopback or address.is_unspecified)


def note(what: str) -> None:
    with open(NOTES, "a") as file:  # noqa: PTH123  (pathlib is not needed in every process)
        file.write(f"{what}\n{''.join(traceback.format_stack(limit=12))}\n")


def guarded(real, name):
    def call(self, address, *more):
        if self.family in (socket.AF_INET, socket.AF_INET6) and outside(address[0]):
            note(f"{name} {address}")
            raise ConnectionRefusedError(f"this test lets nothing out: {address}")
        return real(self, address, *more)
    return call


def looked_up(real):
    def call(host, *args, **kwargs):
        if outside(host):
            note(f"look-up {host!r}")
            raise socket.gaierror(-2, "this test looks nothing up")
        return real(host, *args, **kwargs)
    return call


socket.socket.connect = guarded(socket.socket.connect, "connect")
socket.socket.connect_ex = guarded(socket.socket.connect_ex, "connect_ex")
socket.getaddrinfo = looked_up(socket.getaddrinfo)
socket.gethostbyname = looked_up(socket.gethostbyname)
