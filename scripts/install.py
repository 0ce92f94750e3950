"""Makes `.venv` and installs Sprocket into it, with nothing but the standard library.

    python scripts/install.py [--extra test --extra check]

Idempotent: a stamp file remembers what was installed, so a second call costs nothing. The one decision here is which
build of torch to take: on Linux the plain package is the CUDA build, several gigabytes, so on a machine without an
NVIDIA GPU the CPU build is asked for instead. Root is never needed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / "constraints.txt"
TORCH = "torch==2.13.0"
TORCH_CPU_WHEELS = "https://download.pytorch.org/whl/cpu/torch/"
"""Where PyTorch publishes its CPU builds; asked only when the usual place would give a CUDA build."""


def venv_python() -> Path:
    """The interpreter inside `.venv`, on any system."""
    return VENV / ("Scripts/python.exe" if platform.system() == "Windows" else "bin/python")


def needs_cpu_wheels(*, system: str, machine: str, has_gpu: bool, resolved_version: str) -> bool:
    """Whether torch must come from the CPU wheels.

    Only Linux on x86-64 gets a CUDA build by default; a version that ends in '+cpu' is already the small one.
    """
    return system == "Linux" and machine in ("x86_64", "AMD64") and not has_gpu and not resolved_version.endswith("+cpu")


def resolved_torch() -> str:
    """The version of torch that pip would install now, without downloading it; '' when pip cannot say."""
    report = subprocess.run(
        [venv_python(), "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps", "--ignore-installed",
         "--report", "-", TORCH],
        capture_output=True, text=True, check=False)
    try:
        return str(json.loads(report.stdout)["install"][0]["metadata"]["version"])
    except (json.JSONDecodeError, KeyError, IndexError):
        return ""


def pip(*arguments: str) -> None:
    """Runs pip inside `.venv`; its own message is shown when it fails."""
    command = [str(venv_python()), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *arguments]
    if subprocess.run(command, check=False).returncode != 0:
        sys.exit(f"Installing failed: {' '.join(command)}\nThe message above is pip's. Mend it and run the same command "
                 "again: what is installed is kept.")


def install_torch() -> None:
    """Installs torch first, alone, so that the choice of its build is ours and not the resolver's."""
    cpu = needs_cpu_wheels(system=platform.system(), machine=platform.machine(),
                           has_gpu=shutil.which("nvidia-smi") is not None, resolved_version=resolved_torch())
    pip(*([f"{TORCH}+cpu", "--find-links", TORCH_CPU_WHEELS] if cpu else [TORCH]))


def make_venv() -> None:
    """Makes `.venv` where there is none with a working pip: one whose making was cut short, or failed, is made anew."""
    there = venv_python().exists()
    if there and subprocess.run([venv_python(), "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
        return
    print("Making .venv ...", flush=True)
    try:
        venv.create(VENV, with_pip=True, clear=True)
    except subprocess.CalledProcessError:
        sys.exit(f"This Python ({sys.executable}) cannot make an environment with pip. On Debian and Ubuntu install the package "
                 "python3-venv; then run the same command again.")


def wanted_stamp(extras: list[str]) -> str:
    """A digest of everything the installation depends on."""
    digest = hashlib.sha256(sys.version.encode())
    for file in (ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__)):
        digest.update(file.read_bytes())
    return f"{digest.hexdigest()} {' '.join(sorted(extras))}"


def main() -> None:
    """Creates or refreshes the environment."""
    parser = argparse.ArgumentParser(description="Install Sprocket into .venv")
    parser.add_argument("--extra", action="append", default=[], choices=["pocket", "test", "check"])
    extras = parser.parse_args().extra
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        sys.exit(f"Sprocket needs Python 3.10, 3.11 or 3.12; this is {platform.python_version()} ({sys.executable}). "
                 "Run `make PYTHON=python3.11 ...` with one of those.")
    stamp = VENV / ".sprocket-installed"
    done = stamp.read_text().split() if stamp.exists() else []
    wanted = wanted_stamp(extras).split()
    if done[:1] == wanted[:1] and set(wanted) <= set(done) and venv_python().exists():
        return
    make_venv()
    kept = sorted(set(extras) | set(done[1:]))
    print("Installing (the first time takes some minutes) ...", flush=True)
    install_torch()
    target = f"{ROOT}[{','.join(kept)}]" if kept else str(ROOT)
    pip("--constraint", str(CONSTRAINTS), "--editable", target)
    stamp.write_text(f"{wanted[0]} {' '.join(kept)}")


if __name__ == "__main__":
    main()
