"""
Which web pages may ask: a rule on the headers that browsers send and pages cannot forge. Pure, but for the machine's names.

Where no key is asked for, whatever runs on the machine may call, and a browser runs any page's code. So a page of another
origin is refused there, and so is a name that is not this machine's: by pointing a name of its own at 127.0.0.1 a page makes
itself one of "the same" origin. Where callers have keys, a page without a key is nobody, and one with a key is that caller.

Pages of `listen.origins` may ask and read the answers (CORS). No other page reads anything, even where it may ask.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from multidict import istr

from headrace.errors import NotAllowed

_MAX_AGE_S = 600
# Every request is asked for these: names that are folded already are found sooner.
_HOST, _ORIGIN, _FETCH_SITE = istr("host"), istr("origin"), istr("sec-fetch-site")
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
# What pages may read of an answer's head besides the few headers that they may read of any.
_EXPOSED = ", ".join((
    "age", "anthropic-organization-id", "anthropic-ratelimit-input-tokens-limit", "anthropic-ratelimit-input-tokens-remaining",
    "anthropic-ratelimit-input-tokens-reset", "anthropic-ratelimit-output-tokens-limit",
    "anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset",
    "anthropic-ratelimit-requests-limit", "anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset",
    "cache-status", "request-id", "retry-after", "retry-after-ms", "x-headrace-attempts", "x-headrace-source",
    "x-headrace-ticket", "x-should-retry",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class OriginStats:
    """The origins whose pages may ask, and the names by which this daemon may be called where no key is asked for."""

    origins: tuple[str, ...]
    hosts: tuple[str, ...]


class Origins:
    """
    The rule of one port.

    Args:
        listed: origins whose pages may ask, such as "https://app.example"; lower-case.
        hosts: names by which this daemon may be called, beside addresses, localhost and the machine's own.
        is_open: whether calls need no key at present.
    """

    def __init__(self, listed: Iterable[str], hosts: Iterable[str], *, is_open: Callable[[], bool]) -> None:
        self._listed = frozenset(listed)
        self._hosts = {host.lower() for host in hosts} | {"localhost", socket.gethostname().lower()}
        self._is_open = is_open
        # The same few names come with every call.
        self._is_known = functools.lru_cache(256)(self._look_up)

    def __repr__(self) -> str:
        return f"<Origins [{len(self._listed)} listed, {len(self._hosts)} hosts]>"

    def stats(self) -> OriginStats:
        """Return what is allowed."""
        return OriginStats(tuple(sorted(self._listed)), tuple(sorted(self._hosts)))

    def add_host(self, name: str) -> None:
        """Let callers call this daemon by *name*, too."""
        self._hosts.add(name.lower().rstrip("."))
        self._is_known.cache_clear()

    def check(self, headers: Mapping[str, str]) -> None:
        """Raise `NotAllowed` if this request comes from a page that may not ask, or to a name that is not ours."""
        if not self._is_open():
            return
        host, origin = headers.get(_HOST), headers.get(_ORIGIN)
        if host is not None and not self._is_known(host):
            raise NotAllowed("this daemon is not called by that name: call it by its address, or add the name to listen.hosts")
        if origin is None:
            if headers.get(_FETCH_SITE, "").strip().lower() == "cross-site":
                raise NotAllowed("a page of another site asks, and no key is asked for here: see listen.origins")
        elif not self.is_listed(origin) and not _is_same(origin, host or "", headers):
            raise NotAllowed("a page of another origin asks, and no key is asked for here: see listen.origins")

    def is_listed(self, origin: str) -> bool:
        """Whether pages of this origin may ask, and read what they are answered."""
        return origin.lower() in self._listed

    def said(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Return the headers with which every answer to this request lets its page read it; none for most requests."""
        if not self._listed:
            return {}
        origin = headers.get("origin")
        if origin is None or not self.is_listed(origin):
            return {"vary": "Origin"}  # a cache on the way must not give this answer to a page that may read its own
        return {"access-control-allow-origin": origin, "vary": "Origin", "access-control-expose-headers": _EXPOSED}

    def preflight(self, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        """
        Return the headers that answer a browser's question whether a page may ask, besides those of `said`.

        Raises `NotAllowed` for a page that may not, and for whoever is no page.
        """
        origin = headers.get("origin")
        if origin is None or not self.is_listed(origin):
            raise NotAllowed("OPTIONS is answered to pages of listen.origins only; upstream is never asked")
        answer = [("access-control-allow-methods", _METHODS), ("access-control-max-age", str(_MAX_AGE_S))]
        if asked := headers.get("access-control-request-headers"):
            answer.append(("access-control-allow-headers", asked))
        if headers.get("access-control-request-private-network", "").lower() == "true":
            answer.append(("access-control-allow-private-network", "true"))
        return answer

    def _look_up(self, host: str) -> bool:
        name = _name(host)
        try:
            ip_address(name)
        except ValueError:
            return name in self._hosts
        return True


def _name(host: str) -> str:
    # Less its port; an IPv6 address stands in brackets.
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _is_same(origin: str, host: str, headers: Mapping[str, str]) -> bool:
    scheme = "https" if headers.get("x-forwarded-proto", "").lower() == "https" else "http"
    default = ":443" if scheme == "https" else ":80"
    return origin.lower().removesuffix(default) == f"{scheme}://{host.strip().lower().removesuffix(default)}"
