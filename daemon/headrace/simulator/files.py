"""
The Files API, for files of any size: what comes in is hashed and only a small file is kept.

Unlike upstream, which never gives back what was uploaded, a small file can be downloaded, so that a test can see that it went
through whole; of a larger one only its size and SHA-256 are known (`GET /_simulator/files`). For large downloads there are
files that need no storage: `file_sim_<bytes>` exists for any number of bytes, and what is in it follows from its name.
"""

from __future__ import annotations

import hashlib
import mimetypes
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from aiohttp import web

from headrace.simulator.call import Call
from headrace.simulator.multipart import Part, read
from headrace.simulator.options import Options
from headrace.simulator.pages import by_cursor
from headrace.simulator.refusals import Refused, invalid
from headrace.simulator.routes import Route

GENERATED = "file_sim_"
_BLOCK = 65_536
_MOST_FORM = 65_536  # the form around a file
_EXPIRY_S = (3_600, 7_776_000)
_FORBIDDEN = frozenset('<>:"|?*\\/') | {chr(code) for code in range(32)}


@dataclass(slots=True)
class File:
    """
    A file.

    Args:
        created_at, expires_at: seconds since the epoch.
        content: None where it is too large to keep.
    """

    id: str
    filename: str
    mime_type: str
    created_at: float
    size_bytes: int = 0
    sha256: str = ""
    expires_at: float | None = None
    content: bytearray | None = field(default_factory=bytearray, repr=False)

    def shown(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "file",
            "filename": self.filename,
            "mime_type": self.mime_type,
            "size_bytes": self.size_bytes,
            "created_at": _rfc3339(self.created_at),
            "expires_at": None if self.expires_at is None else _rfc3339(self.expires_at),
            "downloadable": self.content is not None or self.id.startswith(GENERATED),
        }


class Files:
    """All files that were uploaded, and those that are always there."""

    def __init__(self, options: Options, new_id: Callable[[str], str], clock: Callable[[], float] = time.time) -> None:
        self._options = options
        self._new_id = new_id
        self.clock = clock
        self._files: dict[str, File] = {}

    def __repr__(self) -> str:
        return f"<Files [{len(self._files)}, {sum(file.size_bytes for file in self._files.values())} bytes]>"

    def __getitem__(self, file_id: str) -> File:
        return self._files[file_id]

    def reset(self) -> None:
        """Forget all files."""
        self._files.clear()

    def listed(self) -> list[dict[str, Any]]:
        """Return what was uploaded, oldest first, with its SHA-256."""
        return [file.shown() | {"sha256": file.sha256} for file in self._files.values()]

    def routes(self) -> tuple[Route, ...]:
        return (
            Route("POST", "/v1/files", self._upload),
            Route("GET", "/v1/files", self._list),
            Route("GET", "/v1/files/{}", self._metadata),
            Route("DELETE", "/v1/files/{}", self._delete),
            Route("GET", "/v1/files/{}/content", self._download),
        )

    async def _upload(self, call: Call) -> web.StreamResponse:
        most = self._options.max_file_bytes
        file = None
        expires_in = b""
        async with aclosing(call.parts(most + _MOST_FORM if most else 0)) as body:
            taking = _Taking(self._options.keep_file_bytes, most)
            async for item in read(body, call.request.headers.get("content-type", "")):
                if isinstance(item, bytes):
                    if taking.file:
                        taking.take(item)
                    elif taking.name == "expires_in_seconds":
                        expires_in += item[:20]
                    continue
                file = taking.begin(item, self._begin) or file
        if file is None:
            raise invalid("file: Field required")
        file.sha256 = taking.digest.hexdigest()
        if expires_in:
            file.expires_at = file.created_at + _expiry_s(expires_in)
        self._files[file.id] = file
        return call.say(file.shown())

    def _begin(self, part: Part) -> File:
        kind = part.content_type or mimetypes.guess_type(part.filename or "")[0] or "application/octet-stream"
        return File(self._new_id("file"), _filename(part.filename, kind), kind, self.clock())

    async def _list(self, call: Call) -> web.StreamResponse:
        query = call.request.query
        newest_first = [file.shown() for file in reversed(self._files.values()) if not self._is_expired(file)]
        if wanted := {*query.getall("ids[]", ()), *query.getall("ids", ())}:
            return call.say({"data": [file for file in newest_first if file["id"] in wanted], "next_page": None})
        return call.say(by_cursor(newest_first, query))

    async def _metadata(self, call: Call) -> web.StreamResponse:
        return call.say(self._find(call).shown())

    async def _delete(self, call: Call) -> web.StreamResponse:
        file = self._find(call)
        self._files.pop(file.id, None)
        return call.say({"id": file.id, "type": "file_deleted"})

    async def _download(self, call: Call) -> web.StreamResponse:
        file = self._find(call)
        if file.id.startswith(GENERATED):
            content: Iterable[bytes] = generated(file.id)
        elif file.content is not None:
            content = _slices(file.content)
        else:
            message = f"File {file.id} is not downloadable"
            raise Refused(400, "invalid_request_error", message, details={"error_code": "file_not_downloadable"})
        call.headers["content-disposition"] = f"attachment; filename*=UTF-8''{quote(file.filename)}"
        return await call.stream(content, file.mime_type, file.size_bytes)

    def _find(self, call: Call) -> File:
        (file_id,) = call.ids
        size = generated_size(file_id)
        if size is not None:
            return File(file_id, f"{size}.bin", "application/octet-stream", 0.0, size, content=None)
        file = self._files.get(file_id)
        if file is None:
            raise Refused(404, "not_found_error", f"File not found: {file_id[:100]}")
        if self._is_expired(file):
            raise Refused(404, "not_found_error", f"File expired: {file_id}", details={"error_code": "file_expired"})
        return file

    def _is_expired(self, file: File) -> bool:
        return file.expires_at is not None and self.clock() >= file.expires_at


class _Taking:
    """The file of a form, while it comes in."""

    def __init__(self, keep: int, most: int) -> None:
        self._keep = keep
        self._most = most
        self._has_had_one = False
        self.digest = hashlib.sha256()
        self.file: File | None = None
        self.name = ""

    def begin(self, part: Part, make: Callable[[Part], File]) -> File | None:
        """Go on to the next field; return the file if it is one."""
        self.name, self.file = part.name, None
        if part.name != "file":
            return None
        if self._has_had_one:
            raise invalid("file: only one file may be given")
        self._has_had_one = True
        self.file = make(part)
        return self.file

    def take(self, piece: bytes) -> None:
        file = self.file
        if file is None:
            return
        self.digest.update(piece)
        file.size_bytes += len(piece)
        if self._most and file.size_bytes > self._most:
            raise Refused(413, "request_too_large", "File exceeds the maximum size")
        if file.content is not None and file.size_bytes <= self._keep:
            file.content += piece
        else:
            file.content = None


def generated_size(file_id: str) -> int | None:
    """Return how large a file of this name is, if it is one that is always there."""
    size = file_id.removeprefix(GENERATED)
    return int(size) if size != file_id and size.isascii() and size.isdecimal() and len(size) <= 15 else None


def generated(file_id: str) -> Iterator[bytes]:
    """
    Yield the content of a file that is always there, in pieces.

    Blocks of 64 KiB that differ in their first 8 bytes only: cheap to make, and none in the wrong place goes unnoticed.
    """
    size = generated_size(file_id) or 0
    rest = hashlib.shake_256(file_id.encode()).digest(_BLOCK - 8)
    for number, start in enumerate(range(0, size, _BLOCK)):
        yield (number.to_bytes(8, "big") + rest)[: size - start]


def _slices(content: bytearray) -> Iterator[bytes]:
    for start in range(0, len(content), _BLOCK):
        yield bytes(content[start : start + _BLOCK])


def _filename(given: str | None, kind: str) -> str:
    name = PurePosixPath((given or "").replace("\\", "/")).name
    if not name:
        return "unnamed" + (mimetypes.guess_extension(kind) or "")
    if len(name) > 255 or _FORBIDDEN & set(name):
        raise invalid("file: filename should have from 1 to 255 characters, and none that a path or a shell gives a meaning")
    return name


def _expiry_s(raw: bytes) -> int:
    low, high = _EXPIRY_S
    if not raw.isdigit() or not low <= int(raw) <= high:
        raise invalid(f"expires_in_seconds: Input should be from {low} to {high}")
    return int(raw)


def _rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
