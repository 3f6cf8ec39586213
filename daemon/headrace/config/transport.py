"""
Who may listen where, and what goes over the network in the clear.

An address that other machines reach needs two things: that whoever asks shows who it is (a key of ours, its own key for
upstream, or a client certificate), and that nobody on the way can read that (TLS). Without both the daemon does not start,
unless `listen.insecure = true` says that it is meant; then it is a warning at each start.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from headrace.config.kinds import split_address
from headrace.config.tables import Settings
from headrace.sentinels import sentinels


def contradictions(settings: Settings) -> Iterator[str]:
    """Yield what cannot be."""
    yield from _pairs(settings)
    if settings.listen.tls_client_ca and not settings.listen.tls_certificate:
        yield "listen.tls_client_ca: clients show certificates over TLS only; name listen.tls_certificate and listen.tls_key"
    if settings.listen.tls_clients and not settings.listen.tls_client_ca:
        yield "listen.tls_clients: no client is asked for its certificate; name listen.tls_client_ca, who signs them"
    redis = settings.redis
    if (redis.tls_ca or redis.tls_certificate) and not redis.url.startswith("rediss"):
        yield "redis.tls_ca, tls_certificate: are for TLS, and redis.url does not ask for it; begin it with rediss"
    if redis.wait_replicas and (not redis.url or redis.url.startswith("unix")):
        yield "redis.wait_replicas: is for a Redis with replicas; name it in redis.url"
    if not settings.listen.insecure:
        for address, why, mend in _open(settings):
            yield f"listen: {address}: {why}; {mend}, or listen on loopback (listen.insecure = true lets it be)"


def _pairs(settings: Settings) -> Iterator[str]:
    for name, table in (("listen", settings.listen), ("redis", settings.redis)):
        if bool(table.tls_certificate) != bool(table.tls_key):
            yield f"{name}.tls_certificate, {name}.tls_key: one is no good without the other; name both files"


def warnings(settings: Settings) -> Iterator[str]:
    """Yield what is allowed but hardly meant, or meant and dangerous."""
    for address, why, mend in _open(settings):
        yield f"listen.insecure = true: {address}: {why}; {mend}"
    watched = settings.worker.listen
    if watched and not is_loopback(split_address(watched)[0]):
        yield f'worker.listen = "{watched}": whoever reaches it reads the names of callers and limits in the metrics'
    for host in _redis_in_the_clear(settings.redis.url):
        yield f"redis.url: budgets, answers and tickets go to {host} unencrypted; use rediss"
    for name, path in (
        ("listen.tls_key", settings.listen.tls_key),
        ("redis.tls_key", settings.redis.tls_key),
        ("auth.pepper_file", settings.auth.pepper_file),
    ):
        if path and is_open_to_all(Path(path)):
            yield f"{name}: every user of this machine may read {path}; chmod it to 0600"


def _redis_in_the_clear(url: str) -> list[str]:
    """Return the hosts to which we would speak without TLS, and not on this machine."""
    named = sentinels(url)
    if named is not None:
        hosts = [] if url.startswith("rediss") else [host for host, _ in named.addresses]
    else:
        parts = urlsplit(url)
        hosts = [parts.hostname or ""] if parts.scheme == "redis" else []
    return [host for host in hosts if not is_loopback(host)][:1]


def _open(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield the addresses that other machines reach and should not: the address, why, and what would do."""
    shows_key = settings.auth.required or settings.upstream.credentials == "caller"
    for address in (*settings.listen.grpc, settings.listen.http, *settings.listen.admin):
        if address.startswith("unix:") or is_loopback(split_address(address)[0]):
            continue
        if not shows_key and not settings.listen.tls_client_ca:
            yield address, "whoever reaches it can spend your key", "set auth.required = true, with TLS"
        elif not settings.listen.tls_certificate:
            yield address, "keys and prompts go over the network unencrypted", "name listen.tls_certificate and listen.tls_key"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches *host*."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def is_open_to_all(path: Path) -> bool:
    """Whether every user of this machine may read the file."""
    try:
        return bool(path.stat().st_mode & 0o004)
    except OSError:
        return False
