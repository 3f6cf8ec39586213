"""Heavy answers as responses of typed RPCs, made in a process beside this one: hundreds of thousands of blocks take seconds."""

from __future__ import annotations

from headrace.edge import grpc_messages, grpc_typed
from headrace.edge.grpc_kept import Method
from headrace.errors import HeadraceError, InvalidCall
from headrace.model import Answer, Form


def job(name: bytes, payload: bytes) -> bytes:
    """Return the one response that says an answer, JSON, in the helper; raises `InvalidCall` if it is not what it should be."""
    try:
        return b"".join(_methods()[name.decode()].whole(Answer(Form.JSON, payload, 0.0)))
    except (HeadraceError, ValueError) as error:
        raise InvalidCall("the answer is not the JSON that it should be") from error


def _methods() -> dict[str, Method]:
    methods: tuple[Method, ...] = (*grpc_messages.METHODS, *grpc_typed.METHODS)
    return {method.name: method for method in methods}
