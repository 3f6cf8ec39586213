"""
Taking an address for a gRPC server: nobody else's, and with the right permissions.

grpcio takes over a live unix socket without a word, and shares a TCP port if it is let, as our own servers do among themselves.
So a lock on each address comes first; only under it may a socket that a dead daemon left be removed. And before a port is
shared, it is taken for a moment as one that is not: if anybody listens there, that is an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import grpc.aio

from headrace import sockets
from headrace.certificates import Certificates, Shown
from headrace.errors import StartupError
from headrace.lockfile import AddressLock

_UNIX = "unix:"
_umask = threading.Lock()  # the mask is the process's


class Address:
    """
    One address of `listen.grpc`: "unix:<path>" or "<host>:<port>".

    Args:
        runtime_dir: where relative socket paths, and the locks of TCP addresses, lie.
        mode, group: of a unix socket; an empty group leaves it as it is.
        certificates: what is shown at a TCP address; None: it is spoken to in the clear, as a unix socket always is.
    """

    def __init__(
        self, text: str, *, runtime_dir: Path, mode: int, group: str, certificates: Certificates | None = None
    ) -> None:
        self.path = runtime_dir / text.removeprefix(_UNIX).removeprefix("//") if text.startswith(_UNIX) else None
        self.text = f"{_UNIX}{self.path}" if self.path else text
        self.port = 0
        self._mode = mode
        self._group = group
        self._certificates = certificates
        self._lock = None if text.endswith(":0") else AddressLock(self.text, runtime_dir)  # port 0 is nobody else's

    def __repr__(self) -> str:
        return f"<Address {self.text} [{f'port {self.port}' if self.port else 'not bound'}]>"

    @property
    def bound(self) -> str:
        """The address with its real port, once there is one."""
        return f"{self.text[:-1]}{self.port}" if self.port and self.text.endswith(":0") else self.text

    def bind(self, local: grpc.aio.Server, remote: Sequence[grpc.aio.Server]) -> None:
        """Lock the address and bind the one server or the others to it; `StartupError` when it is taken, or cannot be."""
        if self._lock is not None:
            self._lock.acquire()
        try:
            if self.path is not None:
                self._bind_socket(local, self.path)
                return
            _check_free(self.text)
            for server in remote:
                self.port = _add_port(server, self.bound, self._certificates)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go of the address, after the server has stopped."""
        if self.path is not None and self.port:
            self.path.unlink(missing_ok=True)
        self.port = 0
        if self._lock is not None:
            self._lock.release()

    def _bind_socket(self, server: grpc.aio.Server, path: Path) -> None:
        sockets.check_length(path)
        if sockets.is_listening(path):
            raise StartupError(f"listen.grpc: {self.text} is in use by another program; stop it, or listen elsewhere")
        group_id = sockets.group_id(self._group)
        path.unlink(missing_ok=True)
        with _masked(0o777):  # nobody gets in before mode and group are right
            self.port = _add_port(server, self.text)
        if group_id is not None:
            _chown(path, group_id, self._group)
        path.chmod(self._mode)


def _check_free(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, place in dict.fromkeys(found):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that have ended are nobody
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _occupied(address) from error


def _occupied(address: str) -> StartupError:
    return StartupError(
        f"listen.grpc: cannot listen on {address}: it is in use or not ours; stop what listens there, or listen elsewhere"
    )


def _add_port(server: grpc.aio.Server, address: str, certificates: Certificates | None = None) -> int:
    try:
        port: int = (
            server.add_insecure_port(address)
            if certificates is None
            else server.add_secure_port(address, _credentials(certificates))
        )
    except RuntimeError as error:
        raise _occupied(address) from error
    return port


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    # Asked at each handshake, in a thread of gRPC's. Each address has credentials of its own: what it has fetched is its own.
    fetched = certificates.shown

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal fetched
        if fetched is certificates.shown:
            return None
        fetched = certificates.shown
        return _configuration(fetched)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(fetched), fetch, require_client_authentication=fetched.client_ca is not None
    )


def _configuration(shown: Shown) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(shown.key, shown.chain)], root_certificates=shown.client_ca)


def _chown(path: Path, group_id: int, name: str) -> None:
    try:
        os.chown(path, -1, group_id)
    except OSError as error:  # in a private user namespace a foreign group is an invalid argument
        raise StartupError(f"listen.socket_group: this user may not give {path} to {name!r}; make it a member") from error


@contextlib.contextmanager
def _masked(mask: int) -> Iterator[None]:
    with _umask:
        before = os.umask(mask)
        try:
            yield
        finally:
            os.umask(before)
