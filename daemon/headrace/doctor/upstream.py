"""The API: whether its name is known, the way there open, its certificate trusted, our key taken; and which models it has."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import aiohttp

from headrace.config import Settings, api_key
from headrace.config.doubts import like
from headrace.config.kinds import hide_password
from headrace.doctor.finding import Finding, fail, ok, warn
from headrace.upstream import network

_AREA = "upstream"
_TIMEOUT = aiohttp.ClientTimeout(total=15.0, connect=10.0)

# By a part of what is said of the cause.
_MENDS = (
    ("proxy", "Look at upstream.proxy, and at what the proxy lets through"),
    (
        "name is not known",
        "Look at upstream.base_url, and at this machine's DNS; or is there a proxy on the way (upstream.proxy)?",
    ),
    ("certificate", "Give this machine the authority that signed it (SSL_CERT_FILE), or name the right host"),
    ("TLS", "Look whether it speaks TLS there (https) or not (http)"),
)


async def examine(settings: Settings, environ: Mapping[str, str]) -> list[Finding]:
    """Return what there is to say of upstream."""
    where = f"{settings.upstream.base_url}{_by_proxy(settings)}"
    key = "" if settings.upstream.credentials == "caller" else api_key(settings, environ)
    try:
        status, said = await _ask(settings, key)
    except (*network.NETWORK_ERRORS, TimeoutError) as error:
        words = network.words_of(error)
        mend = next((mend for part, mend in _MENDS if part in words), "Look at upstream.base_url, and at firewalls on the way")
        return [fail(_AREA, f"{where}: {words}", mend)]
    if status == 200:
        models = _models(said)
        return [ok(_AREA, f"{where}: takes our key, and has {len(models)} models for it"), *_fitting(settings, models)]
    return [_refused(where, status, bool(key), settings.upstream.credentials == "caller")]


def _by_proxy(settings: Settings) -> str:
    return f" by {hide_password(settings.upstream.proxy)}" if settings.upstream.proxy not in ("", "off") else ""


async def _ask(settings: Settings, key: str) -> tuple[int, Any]:
    headers = {"anthropic-version": settings.upstream.version} | ({"x-api-key": key} if key else {})
    proxy = None if settings.upstream.proxy in ("", "off") else str(settings.upstream.proxy)
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        url = f"{settings.upstream.base_url}/v1/models?limit=1000"
        async with session.get(url, headers=headers, proxy=proxy, allow_redirects=False) as response:
            try:
                return response.status, await response.json(content_type=None)
            except ValueError:
                return response.status, None


def _models(said: Any) -> list[str]:
    rows = said.get("data") if isinstance(said, dict) else None
    return [str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row] if isinstance(rows, list) else []


def _refused(where: str, status: int, has_key: bool, is_callers: bool) -> Finding:
    if status == 401 and is_callers:
        return ok(_AREA, f"{where}: answers; callers bring keys of their own")
    if status in (401, 403):
        said = "refuses our key" if has_key else "asks for a key, and there is none"
        return fail(_AREA, f"{where}: {said} ({status})", "Replace the key; docs/configuration.md says where it is looked for")
    if status == 404:
        return fail(_AREA, f"{where}: has no /v1/models (404)", "Is upstream.base_url right? It has no /v1 at its end")
    if status == 429 or status >= 500:
        return warn(_AREA, f"{where}: can be reached, and answers {status} just now", "Try again in a while")
    return warn(_AREA, f"{where}: answers {status} to GET /v1/models", "Is that the API?")


def _fitting(settings: Settings, models: list[str]) -> list[Finding]:
    """Return a line for each limit whose models upstream does not have."""
    return [
        warn(
            "limits",
            f'limit[{limit.name}].match.model = "{limit.match.model}": fits none of upstream\'s models',
            f"Look at the name{like(limit.match.model, models)}",
        )
        for limit in settings.limit
        if models and not any(fnmatchcase(model, limit.match.model) for model in models)
    ]
