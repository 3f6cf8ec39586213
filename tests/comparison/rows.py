"""
What is compared of the official SDKs: one row for a method, named after it, and more where a method has more than one way.

A row is a small flow that makes what it needs with the same client, so that this is compared as well. The rows are for both
roots of an SDK, `client` and `client.beta`. What the simulator knows nothing of, but the SDK does, is asked with made-up
arguments and answered with an object that was ordered (`asked_anyhow`): it must reach upstream, and come back, as directly.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import BaseModel

Api = Any  # `client` or `client.beta`
MODEL = "claude-sonnet-5"
LOOK = {"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}


class Reading(BaseModel):
    """What `parse` is to find."""

    place: str
    level: int


@dataclass(frozen=True)
class Row:
    """One flow; *orders* are told to the simulator before it."""

    name: str
    work: Callable[[Api], Any]
    orders: tuple[tuple[str, Any], ...] = ()

    @property
    def method(self) -> str:
        return self.name.partition(":")[0]

    @property
    def is_admins(self) -> bool:
        return self.method.startswith("organization.")


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "max_tokens": 40, "messages": [{"role": "user", "content": text}], **more}


def streamed(api: Api, **asked: Any) -> dict[str, Any]:
    with api.messages.stream(**asked) as stream:
        events = list(stream)
    return {"events": events, "final": stream.get_final_message()}


def batch(api: Api, *texts: str) -> Any:
    asked = [{"custom_id": f"n-{number}", "params": ask(text)} for number, text in enumerate(texts or ("one", "two"))]
    return api.messages.batches.create(requests=asked)


def upload(api: Api, name: str = "pond.txt", content: bytes = b"water, \x00 and more") -> Any:
    return api.files.upload(file=(name, content, "text/plain"))


def some(pages: Any) -> Any:
    return next(iter(pages))


def uploaded(api: Api, count: int) -> list[Any]:
    return [upload(api, f"{number}.txt") for number in range(count)]


def users(api: Api) -> dict[str, Any]:
    return {user.name: user for user in api.organization.users.list()}


def mill(api: Api) -> Any:
    return next(workspace for workspace in api.organization.workspaces.list() if workspace.name == "Mill")


_SLOW = (("settings", {"batch_s": 600}),)
_THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}

ROWS = (
    Row("messages.create", lambda api: api.messages.create(**ask("a message"))),
    Row("messages.create: system, stop sequence", lambda api: api.messages.create(
        **ask("it", system="Be brief.", stop_sequences=["a"]),
    )),
    Row("messages.create: tool", lambda api: api.messages.create(**ask("use the tool", tools=[LOOK]))),
    Row("messages.create: thinking", lambda api: api.messages.create(**ask("think", **_THINKING))),
    Row("messages.create: as events", lambda api: list(api.messages.create(**ask("as events"), stream=True))),
    Row("messages.stream", lambda api: streamed(api, **ask("a stream"))),
    Row("messages.stream: tool", lambda api: streamed(api, **ask("use the tool", tools=[LOOK], tool_choice={"type": "any"}))),
    Row("messages.stream: thinking", lambda api: streamed(api, **ask("think aloud", **_THINKING))),
    Row("messages.stream: twice, then whole", lambda api: [
        streamed(api, **ask("again")), streamed(api, **ask("again", extra_headers={"cache-control": "no-store"})),
        api.messages.create(**ask("again", extra_headers={"cache-control": "no-store"})),
    ]),
    Row("messages.parse", lambda api: [
        (parsed := api.messages.parse(**ask("How high is it?"), output_format=Reading)), parsed.parsed_output,
    ]),
    Row("messages.count_tokens", lambda api: api.messages.count_tokens(
        model=MODEL, messages=[{"role": "user", "content": "How many?"}],
    )),
    Row("messages.batches.create", batch),
    Row("messages.batches.retrieve", lambda api: api.messages.batches.retrieve(batch(api).id)),
    Row("messages.batches.list", lambda api: [[batch(api) for _ in range(5)], api.messages.batches.list(limit=2)]),
    Row("messages.batches.list: backwards", lambda api: [
        (made := [batch(api) for _ in range(4)]), api.messages.batches.list(limit=2, before_id=made[0].id),
    ]),
    Row("messages.batches.cancel", lambda api: api.messages.batches.cancel(batch(api).id), _SLOW),
    Row("messages.batches.delete", lambda api: api.messages.batches.delete(batch(api).id)),
    Row("messages.batches.results", lambda api: api.messages.batches.results(batch(api, "one", "two", "").id)),
    Row("models.list", lambda api: api.models.list(limit=2)),
    Row("models.list: backwards", lambda api: api.models.list(limit=1, before_id="claude-3-5-haiku-20241022")),
    Row("models.retrieve", lambda api: api.models.retrieve(MODEL)),
    Row("files.upload", upload),
    Row("files.upload: a megabyte and more", lambda api: upload(api, content=bytes(range(256)) * 6_000)),
    Row("files.list", lambda api: [uploaded(api, 5), api.files.list(limit=2)]),
    Row("files.retrieve_metadata", lambda api: api.files.retrieve_metadata(upload(api).id)),
    Row("files.download", lambda api: api.files.download(upload(api).id).read()),
    Row("files.download: a megabyte and more", lambda api: api.files.download("file_sim_1500000").read()),
    Row("files.delete", lambda api: api.files.delete(upload(api).id)),
    Row("organization.retrieve", lambda api: api.organization.retrieve()),
    Row("organization.rate_limits.list", lambda api: api.organization.rate_limits.list()),
    Row("organization.api_keys.list", lambda api: api.organization.api_keys.list(limit=1)),
    Row("organization.api_keys.retrieve", lambda api: api.organization.api_keys.retrieve(
        some(api.organization.api_keys.list()).id,
    )),
    Row("organization.api_keys.update", lambda api: api.organization.api_keys.update(
        some(api.organization.api_keys.list()).id, name="sluice", status="inactive",
    )),
    Row("organization.workspaces.list", lambda api: api.organization.workspaces.list(limit=1)),
    Row("organization.workspaces.create", lambda api: api.organization.workspaces.create(name="Weir")),
    Row("organization.workspaces.retrieve", lambda api: api.organization.workspaces.retrieve(mill(api).id)),
    Row("organization.workspaces.update", lambda api: api.organization.workspaces.update(mill(api).id, name="Old mill")),
    Row("organization.workspaces.archive", lambda api: [
        api.organization.workspaces.archive(mill(api).id), api.organization.workspaces.list(include_archived=True),
    ]),
    Row("organization.workspaces.members.list", lambda api: api.organization.workspaces.members.list(mill(api).id)),
    Row("organization.workspaces.members.add", lambda api: api.organization.workspaces.members.add(
        mill(api).id, user_id=users(api)["Gate"].id, workspace_role="workspace_user",
    )),
    Row("organization.workspaces.members.retrieve", lambda api: api.organization.workspaces.members.retrieve(
        users(api)["Miller"].id, workspace_id=mill(api).id,
    )),
    Row("organization.workspaces.members.update", lambda api: api.organization.workspaces.members.update(
        users(api)["Miller"].id, workspace_id=mill(api).id, workspace_role="workspace_admin",
    )),
    Row("organization.workspaces.members.remove", lambda api: api.organization.workspaces.members.remove(
        users(api)["Miller"].id, workspace_id=mill(api).id,
    )),
    Row("organization.users.list", lambda api: api.organization.users.list(limit=1)),
    Row("organization.users.retrieve", lambda api: api.organization.users.retrieve(users(api)["Ada"].id)),
    Row("organization.users.update", lambda api: api.organization.users.update(users(api)["Gate"].id, role="developer")),
    Row("organization.users.remove", lambda api: [
        api.organization.users.remove(users(api)["Gate"].id), api.organization.users.list(),
    ]),
    Row("organization.invites.list", lambda api: api.organization.invites.list()),
    Row("organization.invites.create", lambda api: api.organization.invites.create(email="pond@example.com", role="user")),
    Row("organization.invites.retrieve", lambda api: api.organization.invites.retrieve(
        some(api.organization.invites.list()).id,
    )),
    Row("organization.invites.delete", lambda api: [
        api.organization.invites.delete(some(api.organization.invites.list()).id), api.organization.invites.list(),
    ]),
)  # fmt: skip

# Methods that stand in no row, and why.
LEFT_OUT = {
    "messages.tool_runner": "calls messages.create and messages.stream, and nothing else",
    "messages.thread": "sends nothing; what it returns calls messages.create",
    "webhooks.unwrap": "reads what upstream sends to a service of yours: no call",
    "webhooks.parse_unverified": "reads what upstream sends to a service of yours: no call",
    "sessions.events.stream": "events of a kind that the simulator does not say; test_carried.py has streams of any",
    "sessions.threads.events.stream": "as sessions.events.stream",
}

# What anything unknown is answered with: an item and a page in one.
ORDERED = {
    "id": "thing_1", "type": "thing", "name": "Ä \u2028 \U0001f30a", "n": 1.50, "has_more": False, "next_page": None,
    "data": [{"id": "a", "type": "x"}, {"id": "b", "type": "x"}], "first_id": "a", "last_id": "b",
}  # fmt: skip


def resolve(root: Any, method: str) -> Any:
    """Return the method of that dotted name."""
    return functools.reduce(getattr, method.split("."), root)


def arguments(call: Any) -> tuple[list[Any], dict[str, Any]]:
    """Make up what a method insists on: the positional arguments, and the named ones."""
    needed = [item for item in inspect.signature(call).parameters.values() if item.default is inspect.Parameter.empty]
    made = {item: _made_up(item.name, str(item.annotation)) for item in needed if item.kind is not item.VAR_KEYWORD}
    ids = [value for item, value in made.items() if item.kind is item.POSITIONAL_OR_KEYWORD]
    return ids, {item.name: value for item, value in made.items() if item.kind is item.KEYWORD_ONLY}


def asked_anyhow(root: Api, method: str, made_up: tuple[list[Any], dict[str, Any]]) -> Any:
    """Call a method with made-up arguments."""
    ids, named = made_up
    said = resolve(root, method)(*ids, **named)
    if hasattr(said, "iter_pages"):
        return list(islice(said, 10))
    return said.read() if hasattr(said, "read") else said


def _made_up(name: str, kind: str) -> Any:
    if "FileTypes" in kind:
        one = ("SKILL.md", b"# Ponds", "text/markdown")
        return [one] if "Sequence" in kind else one
    if kind.startswith(("Iterable", "Sequence", "List")):
        return [{"type": name}]
    if kind in ("int", "float", "bool"):
        return 7
    return {"type": name, "k": "v"} if kind.endswith("Param") or "params." in kind else f"{name} 1ü"
