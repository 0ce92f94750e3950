"""Builds the folder that is uploaded as a Hugging Face Space, and checks it against the platform's rules without asking the platform.

    python scripts/space.py [--out build/space]

Exit code 1 and one line each for what would be refused there. Nothing is uploaded.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("app.py", "app", "engine", "training", "assets", "LICENSE", "constraints.txt")
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
FIELDS = {"title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "short_description",
          "startup_duration_timeout", "suggested_hardware", "hf_oauth", "hf_oauth_expiration_minutes", "hf_oauth_scopes", "models",
          "datasets",
          "tags", "preload_from_hub", "disable_embedding", "license", "pinned", "header", "fullWidth"}
PYTHONS = ("3.10", "3.12")
"""What ZeroGPU offers; not 3.11."""
MANAGED = ("gradio", "spaces", "huggingface_hub", "huggingface-hub")
PLAIN_BYTES = 10 << 20
"""A file larger than this needs LFS."""
TOTAL_BYTES = 1 << 30
MOST_DESCRIPTION = 60
SECRET = re.compile(rb"\bhf_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY-----")
TORCH_LIST = ROOT / "deploy" / "space" / "torch_2.8.txt"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "space")
    folder = parser.parse_args().out
    build(folder)
    wrong = check(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    print(f"{folder}: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")
    for line in wrong:
        print(f"BAD  {line}")
    if wrong:
        raise SystemExit(1)
    print("ok   front matter, requirements, sizes, secrets, imports, Python 3.10 syntax and library, torch 2.8 names")


def build(folder: Path) -> None:
    """The exact upload folder: what git tracks of these parts, and the Space's own README and requirements."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z", *PARTS], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, listed):
        source = ROOT / name
        if source.is_file():  # links are followed: the platform keeps none
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / name)
    template = (ROOT / "deploy" / "space" / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(template.replace("{gradio}", pinned("gradio")), encoding="utf-8")
    shutil.copyfile(ROOT / "deploy" / "space" / "requirements.txt", folder / "requirements.txt")
    large = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.stat().st_size > PLAIN_BYTES)
    rules = ["*.safetensors filter=lfs diff=lfs merge=lfs -text", *(f"{name} filter=lfs diff=lfs merge=lfs -text" for name in large)]
    (folder / ".gitattributes").write_text("\n".join(rules) + "\n")


def pinned(package: str) -> str:
    """The version of `package` in constraints.txt."""
    found = re.search(rf"^{package}==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"constraints.txt has no version of {package}")
    return found.group(1)


def check(folder: Path) -> list[str]:
    """What the platform would refuse or trip over; one line each."""
    return [*check_readme((folder / "README.md").read_text(encoding="utf-8"), folder),
            *check_requirements((folder / "requirements.txt").read_text()), *check_files(folder), *check_entry(folder),
            *check_python(folder), *check_torch(folder)]


def check_readme(text: str, folder: Path) -> list[str]:
    """The front matter."""
    parts = text.split("---\n")
    if not text.startswith("---\n") or len(parts) < 3:
        return ["README.md has no front matter"]
    said = dict(line.split(":", 1) for line in parts[1].splitlines() if ":" in line and not line.startswith((" ", "#", "-")))
    said = {name: value.strip().strip('"') for name, value in said.items()}
    wrong = [f"README.md: unknown field {name}" for name in sorted(said.keys() - FIELDS)]
    wrong += [f"README.md: {name} is missing" for name in ("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "app_file")
              if name not in said]
    wrong += [f"README.md: {name} is {said.get(name)}" for name in ("colorFrom", "colorTo") if said.get(name) not in COLOURS]
    if said.get("sdk") != "gradio" or not re.fullmatch(r"\d+\.\d+\.\d+", said.get("sdk_version", "")):
        wrong.append("README.md: sdk must be gradio, with a whole sdk_version")
    if said.get("python_version") not in PYTHONS:
        wrong.append(f"README.md: python_version must be one of {', '.join(PYTHONS)}, in quotes")
    if len(said.get("short_description", "")) > MOST_DESCRIPTION:
        wrong.append(f"README.md: short_description has {len(said['short_description'])} characters; the limit is {MOST_DESCRIPTION}")
    if not (folder / said.get("app_file", "app.py")).is_file():
        wrong.append("README.md: app_file is not there")
    return wrong


def check_requirements(text: str) -> list[str]:
    """requirements.txt."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    names = {re.split(r"[\[<>=!~ ;]", line)[0].lower(): line for line in lines}
    wrong = [f"requirements.txt: {name} is the platform's" for name in MANAGED if name in names]
    wrong += [f"requirements.txt: {line} is no package of the index" for line in lines if "://" in line or line.startswith(("-", ".", "/"))]
    if "==" in names.get("torch", "=="):
        wrong.append("requirements.txt: torch must be there and not pinned")
    project = (ROOT / "pyproject.toml").read_text().split("dependencies = [", 1)[1].split("]", 1)[0]
    needed = {re.split(r"[\[<>=]", line)[0].lower() for line in re.findall(r'"([^"]+)"', project)} - set(MANAGED) - {"fastapi"}
    return wrong + [f"requirements.txt: {name} is missing" for name in sorted(needed - names.keys())]


def check_files(folder: Path) -> list[str]:
    """Sizes, links and secrets."""
    wrong, total = [], 0
    attributes = (folder / ".gitattributes").read_text()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            wrong.append(f"{name} is a link")
        if not path.is_file():
            continue
        size = path.stat().st_size
        total += size
        if size > PLAIN_BYTES and name not in attributes and path.suffix != ".safetensors":
            wrong.append(f"{name} has {size / 1e6:.0f} MB and is not in LFS")
        if path.suffix in (".db", ".env", ".pem", ".key") or SECRET.search(path.read_bytes()):
            wrong.append(f"{name} may hold a secret")
    return wrong + ([f"{total / 1e9:.1f} GB in all"] if total > TOTAL_BYTES else [])


def check_entry(folder: Path) -> list[str]:
    """The entry imports neither torch nor gradio by itself: `spaces` has to come first."""
    code = "import sys; import app; import app.space.entry; print([m for m in ('torch', 'diffusers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    return [] if done.stdout.strip() == "[]" else [f"the entry imports too early: {done.stdout.strip() or done.stderr.strip()[-300:]}"]


def check_python(folder: Path) -> list[str]:
    """Nothing newer than Python 3.10, by vermin where it is installed, and compiled by every interpreter of PYTHONS that is at hand."""
    wrong = []
    vermin = Path(sys.executable).with_name("vermin")
    if not vermin.is_file():
        print("     vermin is not installed: Python 3.10's library is not checked (pip install vermin)")
    else:
        command = [str(vermin), "--target=3.10-", "--no-tips", "--violations", "--backport", "typing_extensions",
                   str(folder / "app"), str(folder / "engine"), str(folder / "training"), str(folder / "app.py")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wrong += [f"vermin: {line}" for line in done.stdout.splitlines() if done.returncode and ("requires" in line or "~" in line)][:20]
        wrong += [f"vermin failed: {(done.stdout + done.stderr)[-300:]}"] if done.returncode and not wrong else []
    for version in PYTHONS:
        python = shutil.which(f"python{version}")
        if python and subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            done = subprocess.run([python, "-c", COMPILE, str(folder)], capture_output=True, text=True, check=False)
            wrong += [f"Python {version}: {done.stdout.strip()[-300:]}{done.stderr.strip()[-300:]}"] if done.returncode else []
    return wrong


COMPILE = ("import ast, pathlib, sys\n"
           "for path in pathlib.Path(sys.argv[1]).rglob('*.py'):\n    compile(path.read_text(encoding='utf-8'), str(path), 'exec')\n")


def torch_names(folder: Path) -> set[str]:
    """Every dotted name below `torch` in the sources that a Space runs; the embedded model's training is not among them."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        if "pocket" in path.relative_to(folder).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and (name := dotted(node)).startswith("torch."):
                found.add(name)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if not any(other.startswith(name + ".") for other in found)}


def dotted(node: ast.expr) -> str:
    """'torch.cuda.Stream' of such an expression, '' of another."""
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return node.id if isinstance(node, ast.Name) else ""


def check_torch(folder: Path) -> list[str]:
    """Every torch name is on the list of those that torch 2.8 has; a new one is looked up there, then added."""
    known = {line.strip() for line in TORCH_LIST.read_text().splitlines() if line.strip() and not line.startswith("#")}
    return [f"{name} is not on the list of torch 2.8 ({TORCH_LIST.name})" for name in sorted(torch_names(folder) - known)]


if __name__ == "__main__":
    main()
