"""
Reads a multipart form as it comes, holding no more than one piece of it: what `files` needs to take in a file of any size.

`read` yields a `Part` for each field's head, and then its content in pieces.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser

from headrace.simulator.refusals import invalid

_MOST_HEAD = 16_384


@dataclass(frozen=True, slots=True)
class Part:
    """The head of one field; `filename` is None where it is no file."""

    name: str
    filename: str | None
    content_type: str


async def read(body: AsyncIterator[bytes], content_type: str) -> AsyncIterator[Part | bytes]:
    """Yield heads and pieces of content in the order in which they come; or refuse what is no form, or half of one."""
    delimiter = b"\r\n--" + _boundary(content_type)
    held = bytearray(b"\r\n")  # so that the first delimiter looks like the others
    in_head = in_part = is_over = False
    async for arrived in body:
        held += arrived
        while not is_over:
            if in_head:
                if held[:2] == b"--":
                    is_over = True  # but all of the body is taken in
                    break
                end = held.find(b"\r\n\r\n")
                if end < 0:
                    if len(held) > _MOST_HEAD:
                        raise invalid("The form's part has too large a head")
                    break
                yield _part(bytes(held[:end]))
                del held[: end + 4]
                in_head, in_part = False, True
            at = held.find(delimiter)
            # What could be the beginning of a delimiter stays until more has come.
            ready = at if at >= 0 else max(0, len(held) - len(delimiter) + 1)
            if in_part and ready:
                yield bytes(held[:ready])
            del held[:ready]
            if at < 0:
                break
            del held[: len(delimiter)]
            in_head, in_part = True, False
    if not is_over:
        raise invalid("The form ends before its end")


def _boundary(content_type: str) -> bytes:
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_boundary()
    if message.get_content_type() != "multipart/form-data" or not boundary:
        raise invalid("Content-Type must be multipart/form-data with a boundary")
    return boundary.encode(errors="replace")


def _part(head: bytes) -> Part:
    message = HeaderParser().parsestr(head.decode(errors="replace").lstrip("\r\n"))
    name = message.get_param("name", header="content-disposition")
    filename = message.get_filename()
    if not isinstance(name, str) or message.get_content_disposition() != "form-data":
        raise invalid("A part of the form has no name")
    return Part(name, filename, message.get("content-type", ""))
