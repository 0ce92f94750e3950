"""The server's C library keeps few arenas."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

COUNT = """
import ctypes, sys, threading
from app.allocator import few_arenas
said = few_arenas() if "few" in sys.argv else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
together, kept = threading.Barrier(12), []
def ask():
    together.wait()
    kept.extend(libc.malloc(2000) for _ in range(200))
    together.wait()
threads = [threading.Thread(target=ask) for _ in range(12)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
file = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, file)
libc.fclose(file)
print("said", said)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
def test_twelve_threads_share_two_arenas() -> None:
    few, many = (subprocess.run([sys.executable, "-c", COUNT, *more], capture_output=True, text=True, check=True).stdout
                 for more in (["few"], []))
    assert "said True" in few and few.count("<heap nr=") <= 2 < many.count("<heap nr=")
