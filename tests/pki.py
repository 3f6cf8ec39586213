"""Certificates for tests, made by openssl: an authority, and whom it signs."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    def becomes(self, other: Pair) -> None:
        """Be overwritten by another pair: first the key, then the certificate, each in one step."""
        for mine, others in ((self.key, other.key), (self.certificate, other.certificate)):
            fresh = mine.with_suffix(".new")
            fresh.write_bytes(others.read_bytes())
            os.replace(fresh, mine)


class Authority:
    """Signs certificates, all files in one directory."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self.certificate, self._key = directory / f"{name}.pem", directory / f"{name}.key"
        _openssl("req", "-x509", *_KEY, "-keyout", self._key, "-out", self.certificate, "-days", "30", "-subj", f"/CN={name}")

    def sign(self, name: str, *names: str, common: str = "") -> Pair:
        """Return a new pair called *name*, good for *names* ("DNS:x", "URI:y"); without any it has a common name alone."""
        pair = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        asked, extensions = pair.key.with_suffix(".csr"), pair.key.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={','.join(names)}\n" if names else "basicConstraints=CA:FALSE\n")
        _openssl("req", *_KEY, "-keyout", pair.key, "-out", asked, "-subj", f"/CN={common or name}")
        _openssl(
            "x509", "-req", "-in", asked, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", "30",
            "-out", pair.certificate, "-extfile", extensions,
        )  # fmt: skip
        return pair

    def server(self, name: str = "server") -> Pair:
        """Return a new pair for a server on loopback."""
        return self.sign(name, "DNS:localhost", "IP:127.0.0.1")


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
