"""
The endpoints of the API, and how each is treated: one table.

The first row that fits decides; the last ones take whatever the API has or will have, and only carry it: streamed both ways,
never kept, never shared, and tried again only where HTTP itself calls that safe.

*Repeatable* means: also when an attempt may have reached upstream. Where that is not safe (a creation would be made twice),
there is another attempt only if upstream said that it did nothing (429, 529) or the connection was never made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

_MB = 1_000_000
_USUAL = 512  # characters of a path
_SAFE = frozenset({"GET", "HEAD", "PUT", "DELETE"})  # idempotent: RFC 9110, section 9.2.2

_PATH = re.compile(r"/v1(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+/?")
# What a server may resolve to another path than the one whose row we took: dots, and escapes of what needs none (RFC 3986,
# section 2.3: %6dessages is messages).
_MISLEADING = re.compile(r"/\.{1,2}(?:/|$)|%2[fFdDeE]|%5[cCfF]|%00|%7[eE]|%3[0-9]|%[46][1-9a-fA-F]|%[57][0-9aA]")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    How an endpoint is treated.

    Args:
        name: what limits match, and what stands in metrics.
        is_kept: answered from the cache and shared while in the air; goes along the whole line of `flow.py`.
        is_metered: limits that name no endpoint hold for it: it uses a model's tokens.
        is_repeatable: it may be asked again when nobody knows whether the last attempt was received.
        max_body: bytes that upstream takes; None if it is upstream's alone to say.
        timeout_s: how long an answer may take to begin; None: `retry.max_age`.
        is_admins: for callers with the role `admin`, and asked with the admin key.
        has_addresses: answers may hold upstream's own address, which is not where the caller should go.
        batch: whether an answer makes a message batch, or is the results of one.
    """

    name: str
    is_kept: bool = False
    is_metered: bool = False
    is_repeatable: bool = False
    max_body: int | None = None
    timeout_s: float | None = None
    is_admins: bool = False
    has_addresses: bool = False
    batch: Literal["", "made", "results"] = ""


MESSAGES = Endpoint("messages", is_kept=True, is_metered=True, is_repeatable=True, max_body=32 * _MB)
CHAT = Endpoint("chat", is_kept=True, is_metered=True, is_repeatable=True, max_body=32 * _MB)
COUNT_TOKENS = Endpoint("count_tokens", is_kept=True, is_repeatable=True, max_body=32 * _MB)
MODELS = Endpoint("models", is_kept=True, is_repeatable=True, max_body=_MB)  # it takes none, and none is kept waiting

_ID = r"[^/]+"

# method, path, how. "SAFE" stands for the methods that HTTP calls idempotent, "*" for any.
_ROWS: tuple[tuple[str, str, Endpoint], ...] = (
    ("POST", "/v1/messages", MESSAGES),
    ("POST", "/v1/messages/count_tokens", COUNT_TOKENS),
    ("POST", "/v1/chat/completions", CHAT),
    ("GET", f"/v1/models(/{_ID})?", MODELS),
    ("POST", "/v1/messages/batches", Endpoint("batches", max_body=256 * _MB, timeout_s=600, has_addresses=True, batch="made")),
    ("POST", f"/v1/messages/batches/{_ID}/cancel", Endpoint("batches", is_repeatable=True, has_addresses=True)),
    ("GET", f"/v1/messages/batches/{_ID}/results", Endpoint("batches", is_repeatable=True, timeout_s=600, batch="results")),
    ("SAFE", f"/v1/messages/batches(/{_ID})?", Endpoint("batches", is_repeatable=True, has_addresses=True)),
    ("POST", "/v1/files", Endpoint("files", max_body=501 * _MB, timeout_s=3600)),  # 500 MB, and the form around it
    ("GET", f"/v1/files/{_ID}/content", Endpoint("files", is_repeatable=True, timeout_s=600)),
    ("SAFE", f"/v1/files(/{_ID})?", Endpoint("files", is_repeatable=True)),
    # Setting fields, and archiving, comes to the same however often it is done; making a key or an invite does not.
    (
        "POST",
        f"/v1/organizations/(api_keys|workspaces|users)/{_ID}",
        Endpoint("organization", is_admins=True, is_repeatable=True),
    ),
    ("POST", f"/v1/organizations/{_ID}/{_ID}/archive", Endpoint("organization", is_admins=True, is_repeatable=True)),
    ("SAFE", "/v1/organizations(/.*)?", Endpoint("organization", is_admins=True, is_repeatable=True)),
    ("*", "/v1/organizations(/.*)?", Endpoint("organization", is_admins=True)),
    ("SAFE", "/.*", Endpoint("other", is_repeatable=True, timeout_s=3600)),
    ("*", "/.*", Endpoint("other", timeout_s=3600)),
)
_COMPILED = tuple((method, re.compile(path), endpoint) for method, path, endpoint in _ROWS)

NAMES = tuple(dict.fromkeys(endpoint.name for _, _, endpoint in _ROWS))
_BY_NAME = {endpoint.name: endpoint for _, _, endpoint in reversed(_ROWS)}


def find(method: str, path: str) -> Endpoint:
    """
    Return how a request is treated; *path* is as in the URL, without the query.

    ValueError if it is no path of the API, or may be another one for another reader.
    """
    # A path may have 64 KiB: those that are longer than any of the API's would fill the memory.
    return _find(method, path) if len(path) <= _USUAL else _find.__wrapped__(method, path)


@lru_cache(4096)
def _find(method: str, path: str) -> Endpoint:
    if not _PATH.fullmatch(path) or _MISLEADING.search(path):
        raise ValueError("it begins with /v1/, and nothing in it leads elsewhere")
    plain = path.rstrip("/")
    return next(endpoint for asked, pattern, endpoint in _COMPILED if _fits(asked, method) and pattern.fullmatch(plain))


def _fits(asked: str, method: str) -> bool:
    return asked in ("*", method) or (asked == "SAFE" and method in _SAFE)


def named(name: str) -> Endpoint:
    """Return an endpoint that is kept, by its name."""
    return _BY_NAME[name]


def rows() -> Iterator[tuple[str, str, Endpoint]]:
    """Yield the table: method, pattern of the path, and how."""
    yield from _ROWS
