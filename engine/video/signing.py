"""Content Credentials (C2PA) with the operator's own certificate, where there is one. Signed last: any later change breaks it.

    SPROCKET_C2PA_CERT   PEM, the certificate and what vouches for it
    SPROCKET_C2PA_KEY    PEM, its private key (PKCS#8)
    SPROCKET_C2PA_ALG    es256 (default), es384, es512, ps256, ps384, ps512 or ed25519

Needs the package `c2pa-python` (`pip install c2pa-python`). No time-stamping service is asked: nothing leaves the machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InvalidRequest, OutputRejected
from engine.video.marking import source_type

ALGORITHMS = ("es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who signs."""

    certificate: Path
    key: Path
    algorithm: str


def credentials(environment: Mapping[str, str] | None = None) -> Credentials | None:
    """From the environment; None where nobody signs. Raises InvalidRequest where half of it is set."""
    said = os.environ if environment is None else environment
    certificate, key, algorithm = (said.get(f"SPROCKET_C2PA_{name}", "") for name in ("CERT", "KEY", "ALG"))
    if not certificate and not key:
        return None
    if not certificate or not key:
        raise InvalidRequest("c2pa", "needs both SPROCKET_C2PA_CERT and SPROCKET_C2PA_KEY, the paths of two PEM files.")
    if (algorithm or "es256") not in ALGORITHMS:
        raise InvalidRequest("c2pa", f"knows no algorithm {algorithm[:20]!r}. SPROCKET_C2PA_ALG is one of {', '.join(ALGORITHMS)}.")
    return Credentials(Path(certificate), Path(key), algorithm or "es256")


def manifest(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What is signed: created by a trained model, with which program."""
    version = str(recipe.get("app_version", ""))
    action = {"action": "c2pa.created", "digitalSourceType": source_type(recipe), "softwareAgent": {"name": "Sprocket", "version": version}}
    return {"claim_generator_info": [{"name": "Sprocket", "version": version}], "format": "video/mp4", "title": "Sprocket clip",
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]}


def sign(part: Path, recipe: Mapping[str, Any], who: Credentials) -> None:
    """Replaces the finished mp4 by a signed one. Raises InvalidRequest (no package, unreadable or unfit certificate), OutputRejected."""
    try:
        import c2pa
    except ImportError as error:
        raise InvalidRequest("c2pa", "needs the package c2pa-python, and it is not installed. `pip install c2pa-python` on this machine, "
                                     "or unset SPROCKET_C2PA_CERT.") from error
    signed = part.with_suffix(".signed.part")
    try:
        info = c2pa.C2paSignerInfo(who.algorithm, who.certificate.read_bytes(), who.key.read_bytes(), None)
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(json.dumps(manifest(recipe))) as builder, \
                part.open("rb") as source, signed.open("w+b") as target:
            builder.sign(signer, "video/mp4", source, target)
            target.flush()
            os.fsync(target.fileno())
        signed.replace(part)
    except (OSError, c2pa.C2paError) as error:
        raise InvalidRequest("c2pa", f"could not sign ({str(error)[:200]}). Check that {who.certificate.name} and {who.key.name} are a "
                                     f"certificate for {who.algorithm} and its key; unset SPROCKET_C2PA_CERT to go on unsigned.") from error
    finally:
        signed.unlink(missing_ok=True)
    if not signature_holds(part):
        raise OutputRejected("the signature of the written file does not hold when it is read back. The disk may be failing; try again.")


def signature_holds(path: Path) -> bool:
    """Is there a C2PA signature, and is every byte as it was signed? Whether its certificate is trusted is for the reader to say."""
    import c2pa

    try:
        with path.open("rb") as file, c2pa.Reader("video/mp4", file) as reader:
            return reader.get_validation_state() in ("Valid", "Trusted")
    except c2pa.C2paError:
        return False
