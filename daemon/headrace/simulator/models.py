"""The models endpoint: a short list, in the order of the API's (newest first), and any other name that a model could have."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from headrace.simulator.call import Call
from headrace.simulator.checks import MAX_OUTPUT_TOKENS, check_model
from headrace.simulator.pages import by_id
from headrace.simulator.routes import Route

MODELS = {
    "claude-sonnet-5": "Claude Sonnet 5",
    "claude-opus-4-1-20250805": "Claude Opus 4.1",
    "claude-3-5-haiku-20241022": "Claude Haiku 3.5",
    "sim-1": "Simulator 1",
}
_LINES = ("sonnet", "opus", "haiku")
_CAPABILITIES = ("batch", "citations", "code_execution", "image_input", "pdf_input", "structured_outputs")


def routes() -> tuple[Route, ...]:
    return Route("GET", "/v1/models", _list), Route("GET", "/v1/models/{}", _get)


async def _list(call: Call) -> web.StreamResponse:
    return call.say(by_id([_model(name) for name in MODELS], call.request.query))


async def _get(call: Call) -> web.StreamResponse:
    (name,) = call.ids
    check_model(name)
    return call.say(_model(name))


def _model(name: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": MODELS.get(name, name),
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
        "line": next((line for line in _LINES if line in name), None),
        "deprecated_at": None,
        "retires_at": None,
        "max_input_tokens": 200_000,
        "max_tokens": MAX_OUTPUT_TOKENS,
        "capabilities": _capabilities(),
    }


def _capabilities() -> dict[str, Any]:
    yes, no = {"supported": True}, {"supported": False}
    thinking = dict.fromkeys(("adaptive", "between_tools", "disabled", "enabled"), yes)
    return dict.fromkeys(_CAPABILITIES, yes) | {
        "code_execution": no,
        "context_management": no,
        "effort": no | dict.fromkeys(("low", "medium", "high", "xhigh", "max"), no),
        "server_tools": no | {"code_execution": no, "web_search": no},
        "thinking": yes | {"types": thinking},
    }
