"""
The certificate that the doors show, read from its files, and read again whenever those change.

A new connection is given what is newest; those that are there go on as they began, so that nobody's call fails. Files that are
no good (a key that does not fit its certificate, since only one of the two has been written yet) leave everything as it was,
and that is said once. Where `listen.tls_client_ca` is set, who comes without a certificate that it signed is not let in.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from headrace import observe
from headrace.clock import Clock
from headrace.errors import StartupError

log = structlog.get_logger()

_LOOK_S = 3.0

_Stamp = tuple[tuple[int, int, int], ...]  # of each file: which it is, how long, and when it was written


@dataclass(frozen=True, slots=True)
class Shown:
    """What new connections are shown, as PEM: a chain and its key; and who must have signed their certificates, if anybody."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None


class _Newest(ssl.SSLContext):
    # Every connection begins in the newest context: neither tickets nor sessions of an older one are worth anything in it.

    newest: ssl.SSLContext

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        return self.newest.wrap_bio(*args, **options)


@dataclass(frozen=True, slots=True)
class CertificatesStats:
    """How often the files were read anew, and what is wrong with them as they are now; "" if nothing is."""

    renewals: int
    why: str


class Certificates:
    """
    The files of the configuration, in use. Run `keep` as a task.

    Args:
        certificate, key: paths of PEM files; the first may have the chain.
        client_ca: the path of who must have signed clients' certificates; "" asks them for none.
    """

    def __init__(self, certificate: str, key: str, client_ca: str, clock: Clock) -> None:
        self._paths = [path for path in (certificate, key, client_ca) if path]
        self._clock = clock
        self._renewals, self._why = 0, ""
        self._stamp: _Stamp | None = None
        self._context = _Newest(ssl.PROTOCOL_TLS_SERVER)
        try:
            self.shown = self._read()
        except (OSError, ValueError) as error:
            raise StartupError(f"listen.tls_certificate, tls_key, tls_client_ca: {_reason(error)}") from error

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Certificates {self._paths[0]} [{stats.renewals} renewals{f', {stats.why}' if stats.why else ''}]>"

    def stats(self) -> CertificatesStats:
        """Return its state now."""
        return CertificatesStats(self._renewals, self._why)

    @property
    def context(self) -> ssl.SSLContext:
        """What asyncio's servers take: good for as long as this lives, and always the newest."""
        return self._context

    async def keep(self) -> None:
        """Look after the files every few seconds, until cancelled."""
        while True:
            await self._clock.sleep(_LOOK_S)
            self.renew()

    def renew(self) -> None:
        """Read the files anew, if they have changed."""
        try:
            if _stamp(self._paths) == self._stamp:
                return
            self.shown = self._read()
        except (OSError, ValueError) as error:  # among them what ssl says
            if (why := _reason(error)) != self._why:
                log.error(observe.CERTIFICATE_REJECTED, error=why)
            self._why = why
            return
        self._why = ""
        self._renewals += 1
        log.info(observe.CERTIFICATE_RENEWED, files=self._paths)

    def _read(self) -> Shown:
        # The context reads files by itself, so they are read around it: all three must be of one piece.
        stamp, before = _stamp(self._paths), _contents(self._paths)
        context = _context(*self._paths)
        if _contents(self._paths) != before:
            raise ValueError("the files change just now")
        self._stamp, self._context.newest = stamp, context
        return Shown(before[0], before[1], before[2] if len(before) > 2 else None)


def _stamp(paths: Sequence[str]) -> _Stamp:
    found = [os.stat(path) for path in paths]
    return tuple((each.st_ino, each.st_size, each.st_mtime_ns) for each in found)


def _contents(paths: Sequence[str]) -> list[bytes]:
    contents = []
    for path in paths:
        with open(path, "rb") as file:
            contents.append(file.read())
    return contents


def _context(certificate: str, key: str, client_ca: str = "") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key, password=lambda: "")  # else it would ask at the terminal
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{error.reason or 'what is in them'} ({error.library or 'ssl'}): the key does not fit, or a file is no PEM"
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    return str(error)
