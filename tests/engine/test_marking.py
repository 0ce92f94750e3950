"""Every file says that a machine made it, and goes on being the same video; signed ones notice a changed byte."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import av
import numpy as np
import pytest
from PIL import Image

from engine.errors import InvalidRequest, OutputRejected
from engine.video.marking import (
    check_marks,
    mark_picture,
    mark_video,
    picture_xmp,
    says_machine_made,
    video_xmp,
    xmp_packet,
)
from engine.video.recipe import AI_SOURCE
from engine.video.redact import redacted
from engine.video.signing import Credentials, credentials, sign, signature_holds
from engine.video.writer import ClipWriter

RECIPE: dict[str, Any] = {"sprocket": 1, "app_version": "1.2 <&>", "created": "2026-11-25T01:02:03+00:00",
                          "request": {"model": "pocket", "seed": 7}}


def frames() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(np.linspace(30, 200, 9)[:, None, None, None] + rng.integers(0, 40, (9, 48, 64, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, bytes]:
    part = tmp_path / "clip.part"
    with ClipWriter(part, width=64, height=48, fps=8, frames=9, recipe=RECIPE) as writer:
        writer.write(frames())
        writer.finish()
    return part, writer.poster


def decoded(path: Path) -> list[bytes]:
    with av.open(str(path), format="mp4") as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


def test_the_file_and_its_poster_say_so(written: tuple[Path, bytes]) -> None:
    part, poster = written
    namespace = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
    for packet in (video_xmp(part), picture_xmp(poster)):
        assert packet == xmp_packet(RECIPE)
        tree = ElementTree.fromstring(packet.decode().removeprefix('<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'))
        assert tree.findtext(f".//{namespace}DigitalSourceType") == AI_SOURCE
    with av.open(str(part), format="mp4") as container:
        assert container.metadata["sprocket"]  # the recipe is there as before


def test_a_mark_changes_no_picture(written: tuple[Path, bytes], tmp_path: Path) -> None:
    part, poster = written
    length = 8 + 16 + len(xmp_packet(RECIPE))
    bare = tmp_path / "bare.mp4"
    bare.write_bytes(part.read_bytes()[:-length])
    assert video_xmp(bare) is None
    assert decoded(bare) == decoded(part)
    plain = io.BytesIO()
    Image.fromarray(frames()[4]).save(plain, "WEBP", quality=82, method=2)
    with Image.open(io.BytesIO(plain.getvalue())) as a, Image.open(io.BytesIO(mark_picture(plain.getvalue(), b"x"))) as b:
        assert a.size == b.size
        assert a.tobytes() == b.tobytes()
    with Image.open(io.BytesIO(poster)) as image:
        assert image.size == (64, 48)


def test_a_missing_mark_is_noticed(written: tuple[Path, bytes]) -> None:
    part, poster = written
    check_marks(part, poster, RECIPE)
    with pytest.raises(OutputRejected, match="poster does not say"):
        check_marks(part, mark_picture(_plain(), b"<x/>"), RECIPE)
    part.write_bytes(part.read_bytes().replace(AI_SOURCE.encode(), b"x" * len(AI_SOURCE)))
    with pytest.raises(OutputRejected, match="file does not say"):
        check_marks(part, poster, RECIPE)


def _plain() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "WEBP")
    return out.getvalue()


@pytest.mark.parametrize("data", [b"", b"abc", b"\0" * 64, struct.pack(">I4s", 2**31, b"mdat") + b"x" * 40,
                                  struct.pack(">I4s", 4, b"free") * 9,
                                  struct.pack(">I4sQ", 1, b"mdat", 2**62) + b"x" * 40])
def test_any_bytes_are_only_a_file_without_a_mark(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(data)
    assert video_xmp(path) is None


def test_boxes_of_every_length_form_are_walked(tmp_path: Path) -> None:
    path, packet = tmp_path / "x.mp4", xmp_packet(RECIPE)
    path.write_bytes(struct.pack(">I4sQ", 1, b"mdat", 16 + 100) + b"x" * 100)
    mark_video(path, packet)
    assert says_machine_made(video_xmp(path))


# ---- signatures

@pytest.mark.parametrize(("said", "words"), [({"SPROCKET_C2PA_CERT": "a"}, "needs both"),
                                             ({"SPROCKET_C2PA_KEY": "a"}, "needs both"),
                                             ({"SPROCKET_C2PA_CERT": "a", "SPROCKET_C2PA_KEY": "b", "SPROCKET_C2PA_ALG": "rot13"},
                                              "rot13")])
def test_half_a_certificate_is_refused(said: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        credentials(said)


def test_nobody_signs_unless_asked() -> None:
    assert credentials({}) is None


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    """A certificate fit for signing and an authority of our own that vouches for it."""
    pytest.importorskip("c2pa")
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on this machine")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "ext").write_text("basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
                                "extendedKeyUsage=critical,emailProtection\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
    for command in (
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ca.key",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out leaf.key",
        "req -x509 -new -key ca.key -days 9 -subj /O=Test/CN=Authority -out ca.pem -addext basicConstraints=critical,CA:TRUE "
        "-addext keyUsage=critical,keyCertSign", "req -new -key leaf.key -subj /O=Test/CN=Signer -out leaf.csr",
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 9 -extfile ext -out leaf.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    (folder / "chain.pem").write_bytes((folder / "leaf.pem").read_bytes() + (folder / "ca.pem").read_bytes())
    return Credentials(folder / "chain.pem", folder / "leaf.key", "es256")


def test_a_signed_clip_notices_a_changed_byte(signer: Credentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPROCKET_C2PA_CERT", str(signer.certificate))
    monkeypatch.setenv("SPROCKET_C2PA_KEY", str(signer.key))
    part = tmp_path / "clip.part"
    with ClipWriter(part, width=64, height=48, fps=8, frames=9, recipe=RECIPE) as writer:
        writer.write(frames())
        writer.finish()
    assert signature_holds(part)
    assert says_machine_made(video_xmp(part))
    assert len(decoded(part)) == 9
    import c2pa

    with part.open("rb") as file, c2pa.Reader("video/mp4", file) as reader:
        assert AI_SOURCE in reader.json()
    data = bytearray(part.read_bytes())
    data[data.rfind(b"mdat") + 100] ^= 1
    part.write_bytes(data)
    assert not signature_holds(part)


def test_a_copy_that_says_less_is_signed_anew(signer: Credentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPROCKET_C2PA_CERT", str(signer.certificate))
    monkeypatch.setenv("SPROCKET_C2PA_KEY", str(signer.key))
    part, copy = tmp_path / "clip.mp4", tmp_path / "copy.mp4"
    with ClipWriter(part, width=64, height=48, fps=8, frames=9, recipe=RECIPE | {"wish": "secret words"}) as writer:
        writer.write(frames())
        writer.finish()
    with pytest.raises(OutputRejected, match="is signed"):
        redacted(part, copy, RECIPE, None)
    assert not copy.exists()
    redacted(part, copy, RECIPE, signer)
    assert signature_holds(part) and signature_holds(copy)
    assert b"secret" in part.read_bytes() and b"secret" not in copy.read_bytes()
    assert decoded(copy) == decoded(part) and says_machine_made(video_xmp(copy))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "copy.mp4"]


def test_another_key_cannot_sign(signer: Credentials, written: tuple[Path, bytes]) -> None:
    part, _poster = written
    before = part.read_bytes()
    with pytest.raises(InvalidRequest, match=r"could not sign|does not hold"):
        sign(part, RECIPE, Credentials(signer.certificate, signer.certificate.with_name("ca.key"), "es256"))
    with pytest.raises(InvalidRequest, match="could not sign"):
        sign(part, RECIPE, Credentials(signer.certificate, signer.certificate.with_name("none.key"), "es256"))
    assert part.read_bytes() == before
    assert not list(part.parent.glob("*.signed.part"))
