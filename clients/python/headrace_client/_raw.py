"""Any endpoint of the API as JSON over `ApiService.Call`: requests in, values and errors out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import grpc

from headrace_client import errors, forms
from headrace_client._requests import Defaults
from headrace_client.v1.api_service_pb2 import CallRequest, CallRequestHead, CallResponseHead, Header

_PART = 1024 * 1024  # bytes of a body in one message
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.UNAVAILABLE,
    409: grpc.StatusCode.ABORTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_OURS = "req_headrace_"  # how ids begin that the daemon gives to its own errors


def parts(defaults: Defaults, method: str, path: str, body: Any, query: Mapping[str, Any]) -> list[CallRequest]:
    """Return a request; *body* is a value for JSON, None for none. What is None in *query* is left out."""
    data = b"" if body is None else forms.dump(forms.plain(body))
    given = {name: value for name, value in query.items() if value is not None}
    head = CallRequestHead(
        method=method, path=path, query=urlencode(given, doseq=True), headers=_headers(defaults, data), body=data[:_PART]
    )
    rest = (data[at : at + _PART] for at in range(_PART, len(data), _PART))
    return [CallRequest(head=head), *(CallRequest(chunk=chunk) for chunk in rest)]


def _headers(defaults: Defaults, data: bytes) -> list[Header]:
    said = {
        "content-type": "application/json" if data else "",
        "x-api-key": defaults.api_key,
        "x-headrace-caller": defaults.caller,
        "x-headrace-lane": defaults.lane,
        "x-headrace-labels": ", ".join(_label(name, value) for name, value in defaults.labels.items()),
        "anthropic-version": defaults.anthropic_version,
        "anthropic-beta": ",".join(defaults.betas),
    }
    return [Header(name=name, value=value) for name, value in said.items() if value]


def _label(name: str, value: str) -> str:
    # What parts labels in the header would make two of one.
    if any(sign in name + value for sign in ",="):
        raise ValueError(f"labels: {name!r} or its value {value!r} is none")
    return f"{name}={value}"


def value(body: bytes) -> Any:
    """Return what a body of JSON says; `InternalError` if it says nothing."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise errors.InternalError("the answer is no JSON", reason="NO_JSON", code=grpc.StatusCode.INTERNAL) from error


def headless() -> errors.HeadraceError:
    """Return the error for a response without a beginning."""
    return errors.InternalError("the call ended without a response", reason="NO_RESPONSE", code=grpc.StatusCode.INTERNAL)


def failure(head: CallResponseHead, body: bytes) -> errors.HeadraceError:
    """Return the error that a response tells."""
    headers = {header.name: header.value for header in head.headers}
    kind, text = _said(body)
    code = _CODES.get(head.status) or (grpc.StatusCode.UNAVAILABLE if head.status >= 500 else grpc.StatusCode.INVALID_ARGUMENT)
    request_id = headers.get("request-id", "")
    metadata = {"request_id": request_id}
    is_ours = request_id.startswith(_OURS)
    if not is_ours:
        metadata |= {"upstream_status": str(head.status), "upstream_type": kind}
    return errors.of_code(
        code.value[0], "" if is_ours else "UPSTREAM_ERROR", text, metadata, _seconds(headers.get("retry-after", ""))
    )


def _said(body: bytes) -> tuple[str, str]:
    try:
        said = json.loads(body)["error"]
        return str(said["type"]), str(said["message"])
    except (ValueError, KeyError, TypeError):
        return "", "the error's body is not the API's"


def _seconds(text: str) -> float | None:
    return float(text) if text.replace(".", "", 1).isdigit() else None
