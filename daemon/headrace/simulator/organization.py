"""
The Admin API of a small organization: its keys, workspaces and their members, users, invites, and limits.

It is all kept as the newer API version shows it. Where 2023-06-01 names things otherwise, `_as_version` says so at the door.
Making a key is in no SDK; the answer has the key once, as `key`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from multidict import MultiMapping

from headrace.simulator.call import Call
from headrace.simulator.checks import OLD_VERSION
from headrace.simulator.classes import by_class
from headrace.simulator.models import MODELS
from headrace.simulator.options import Options
from headrace.simulator.pages import by_cursor, by_id
from headrace.simulator.refusals import Refused, invalid
from headrace.simulator.routes import Handler, Route

ORGANIZATION_ID = "7d3b2a10-5e1c-4c6b-9a55-5151a7015151"
ROOT = "/v1/organizations"
_MORE_MODELS = ("claude-opus-4-5", "claude-sonnet-4-5", "claude-sonnet-4", "claude-haiku-4-5")  # whose limits are told
_INVITE_S = 21 * 86_400
_ROLES = ("user", "developer", "billing", "claude_code_user", "managed")
_WORKSPACE_ROLES = ("workspace_user", "workspace_developer", "workspace_restricted_developer", "workspace_admin")

Thing = dict[str, Any]
Things = dict[str, Thing]


class Organization:
    """What there is in it, in the order in which it was made."""

    def __init__(self, options: Options, new_id: Callable[[str], str], clock: Callable[[], float] = time.time) -> None:
        self._options = options
        self._new_id = new_id
        self._clock = clock
        self.reset()

    def __repr__(self) -> str:
        return f"<Organization [{len(self._keys)} keys, {len(self._workspaces)} workspaces, {len(self._users)} users]>"

    def reset(self) -> None:
        """Return to what there is at the start: three users, two workspaces, two keys, one invite."""
        self._keys: Things = {}
        self._workspaces: Things = {}
        self._users: Things = {}
        self._invites: Things = {}
        self._members: dict[str, Things] = {}
        for name, role in (("ada", "admin"), ("miller", "developer"), ("gate", "user")):
            self._add(self._users, _user(self._new_id("user"), name, role, self._now()))
        for name in ("Pond", "Mill"):
            self._add(self._workspaces, self._workspace({"name": name}))
        *_, mill = self._workspaces
        for name, scope in (("everywhere", None), ("mill", mill)):
            self._add(self._keys, self._key({"name": name, "workspace_id": scope}))
        self._add(self._invites, self._invite({"email": "sluice@example.com", "role": "user"}))
        _, developer, _ = self._users
        self._members[mill][developer] = _member(mill, developer, "workspace_developer")

    def routes(self) -> tuple[Route, ...]:
        """Return the endpoints; all of them want an Admin key."""
        rows: tuple[tuple[str, str, Handler], ...] = (
            ("GET", "/me", self._me),
            ("GET", "/api_keys", self._list_keys),
            ("POST", "/api_keys", self._create_key),
            ("GET", "/api_keys/{}", self._get("_keys")),
            ("POST", "/api_keys/{}", self._update_key),
            ("GET", "/workspaces", self._list_workspaces),
            ("POST", "/workspaces", self._create_workspace),
            ("GET", "/workspaces/{}", self._get("_workspaces")),
            ("POST", "/workspaces/{}", self._update_workspace),
            ("POST", "/workspaces/{}/archive", self._archive_workspace),
            ("GET", "/workspaces/{}/members", self._list_members),
            ("POST", "/workspaces/{}/members", self._add_member),
            ("GET", "/workspaces/{}/members/{}", self._get_member),
            ("POST", "/workspaces/{}/members/{}", self._update_member),
            ("DELETE", "/workspaces/{}/members/{}", self._remove_member),
            ("GET", "/users", self._list_users),
            ("GET", "/users/{}", self._get("_users")),
            ("POST", "/users/{}", self._update_user),
            ("DELETE", "/users/{}", self._delete("_users", "user_deleted")),
            ("GET", "/invites", self._list_invites),
            ("POST", "/invites", self._create_invite),
            ("GET", "/invites/{}", self._get("_invites")),
            ("DELETE", "/invites/{}", self._delete("_invites", "invite_deleted")),
            ("GET", "/rate_limits", self._rate_limits),
        )
        return tuple(Route(method, ROOT + path, handler) for method, path, handler in rows)

    async def _me(self, call: Call) -> web.StreamResponse:
        return call.say({"id": ORGANIZATION_ID, "type": "organization", "name": "The Mill"})

    # API keys

    async def _list_keys(self, call: Call) -> web.StreamResponse:
        query = call.request.query
        keys = _chosen(self._keys, query, "status")
        if wanted := query.get("workspace_id"):
            keys = [key for key in keys if key["scope"].get("workspace_id") == wanted]
        if creator := query.get("created_by_user_id"):
            keys = [key for key in keys if key["created_by"]["id"] == creator]
        return _page(call, keys)

    async def _create_key(self, call: Call) -> web.StreamResponse:
        key = self._key(await _read(call, {"name": str}, {"workspace_id": str}))
        if (scope := key["scope"].get("workspace_id")) and scope not in self._workspaces:
            raise _not_found(scope)
        self._add(self._keys, key)
        secret = f"sk-ant-sim03-{key['id']}{key['partial_key_hint'][-4:]}"
        return call.say(_as_version(key, call.version) | {"key": secret})

    async def _update_key(self, call: Call) -> web.StreamResponse:
        key = self._find(self._keys, call.ids[0])
        change = await _read(call, {}, {"name": str, "status": ("active", "inactive", "archived")})
        return call.say(_as_version(_set(key, change), call.version))

    # Workspaces and their members

    async def _list_workspaces(self, call: Call) -> web.StreamResponse:
        query = call.request.query
        shown = list(self._workspaces.values())
        if query.get("include_archived") != "true":
            shown = [workspace for workspace in shown if workspace["archived_at"] is None]
        if wanted := _several(query, "ids"):
            shown = [workspace for workspace in shown if workspace["id"] in wanted]
        return _page(call, shown[::-1])

    async def _create_workspace(self, call: Call) -> web.StreamResponse:
        more = {"data_residency": dict, "display_color": str, "external_key_id": str, "tags": dict, "user_profile_id": str}
        workspace = self._workspace(await _read(call, {"name": str}, more))
        self._add(self._workspaces, workspace)
        return call.say(_as_version(workspace, call.version))

    async def _update_workspace(self, call: Call) -> web.StreamResponse:
        workspace = self._find(self._workspaces, call.ids[0])
        more = {"data_residency": dict, "display_color": str, "external_key_id": str, "tags": dict, "user_profile_id": str}
        change = await _read(call, {}, {"name": str} | more)
        if workspace["archived_at"]:
            raise invalid("Workspace is archived")
        for name in ("tags", "data_residency"):
            merged = workspace[name] | change.get(name, {})
            change[name] = {key: value for key, value in merged.items() if value is not None}
        return call.say(_as_version(_set(workspace, change), call.version))

    async def _archive_workspace(self, call: Call) -> web.StreamResponse:
        await call.drain()
        workspace = self._find(self._workspaces, call.ids[0])
        workspace["archived_at"] = workspace["archived_at"] or self._now()
        return call.say(_as_version(workspace, call.version))

    async def _list_members(self, call: Call) -> web.StreamResponse:
        return call.say(by_id([*self._members_of(call).values()][::-1], call.request.query, "user_id"))

    async def _add_member(self, call: Call) -> web.StreamResponse:
        members = self._members_of(call)
        asked = await _read(call, {"user_id": str, "workspace_role": _WORKSPACE_ROLES}, {})
        user_id = self._find(self._users, asked["user_id"])["id"]
        if user_id in members:
            raise invalid("User is already a member of this workspace")
        members[user_id] = _member(call.ids[0], user_id, asked["workspace_role"])
        return call.say(members[user_id])

    async def _get_member(self, call: Call) -> web.StreamResponse:
        return call.say(self._find(self._members_of(call), call.ids[1]))

    async def _update_member(self, call: Call) -> web.StreamResponse:
        member = self._find(self._members_of(call), call.ids[1])
        return call.say(_set(member, await _read(call, {"workspace_role": (*_WORKSPACE_ROLES, "workspace_billing")}, {})))

    async def _remove_member(self, call: Call) -> web.StreamResponse:
        workspace_id, user_id = call.ids
        members = self._members_of(call)
        self._find(members, user_id)
        del members[user_id]
        return call.say({"type": "workspace_member_deleted", "user_id": user_id, "workspace_id": workspace_id})

    def _members_of(self, call: Call) -> Things:
        return self._members[self._find(self._workspaces, call.ids[0])["id"]]

    # Users and invites

    async def _list_users(self, call: Call) -> web.StreamResponse:
        return _page(call, _chosen(self._users, call.request.query, "email", roles="role"))

    async def _update_user(self, call: Call) -> web.StreamResponse:
        user = self._find(self._users, call.ids[0])
        change = await _read(call, {"role": _ROLES}, {})
        if user["role"] == "admin":
            raise invalid("Admins cannot be changed by an API key")
        return call.say(_set(user, change))

    async def _list_invites(self, call: Call) -> web.StreamResponse:
        return _page(call, _chosen(self._invites, call.request.query, "email", roles="role", statuses="status"))

    async def _create_invite(self, call: Call) -> web.StreamResponse:
        invite = self._invite(await _read(call, {"email": str, "role": _ROLES}, {"rbac_group_ids": list}))
        if any(other["email"] == invite["email"] for other in self._invites.values()):
            details = {"error_code": "invite_already_exists"}
            raise Refused(400, "invalid_request_error", "An invite for this email already exists", details=details)
        self._add(self._invites, invite)
        return call.say(_as_version(invite, call.version))

    # Limits

    async def _rate_limits(self, call: Call) -> web.StreamResponse:
        query = call.request.query
        shown = self._limits()
        if kind := query.get("group_type"):
            shown = [limit for limit in shown if limit["group"]["type"] == kind]
        if model := query.get("model"):
            shown = [limit for limit in shown if model in (limit["models"] or ())]
            if not shown:
                raise _not_found(model)
        page = by_cursor(shown, query, default=None)
        return call.say(page | {"data": [_as_version(limit, call.version) for limit in page["data"]]})

    def _limits(self) -> list[Thing]:
        """Return the limits that the simulator does hold; without any, those of a large account."""
        options = self._options
        rates = {
            "requests_per_minute": options.requests_per_minute or 4_000,
            "input_tokens_per_minute": options.input_tokens_per_minute or 2_000_000,
            "output_tokens_per_minute": options.output_tokens_per_minute or 400_000,
        }
        groups = by_class((*MODELS, *_MORE_MODELS)).items()
        shared = [_limit("model_group", f"rl_{name}", models, rates, MODELS.get(models[0], name)) for name, models in groups]
        return [*shared, _limit("batch", "rl_batch", None, {"requests_per_minute": 4_000})]

    # What all of them share

    def _get(self, name: str) -> Handler:
        async def get(call: Call) -> web.StreamResponse:
            return call.say(_as_version(self._find(getattr(self, name), call.ids[0]), call.version))

        return get

    def _delete(self, name: str, said: str) -> Handler:
        async def delete(call: Call) -> web.StreamResponse:
            things: Things = getattr(self, name)
            thing = self._find(things, call.ids[0])
            if thing["type"] == "user" and thing["role"] == "admin":
                raise invalid("Admins cannot be removed by an API key")
            del things[thing["id"]]
            return call.say({"id": thing["id"], "type": said})

        return delete

    def _add(self, things: Things, thing: Thing) -> None:
        things[thing["id"]] = thing
        if thing["type"] == "workspace":
            self._members[thing["id"]] = {}

    def _find(self, things: Things, wanted: str) -> Thing:
        if wanted not in things:
            raise _not_found(wanted)
        return things[wanted]

    def _key(self, asked: Mapping[str, Any]) -> Thing:
        key_id = self._new_id("apikey")
        creator = next(iter(self._users))
        where = asked.get("workspace_id")
        return {
            "id": key_id, "type": "api_key", "name": asked["name"], "status": "active", "created_at": self._now(),
            "expires_at": None, "partial_key_hint": f"sk-ant-sim03-...{key_id[-4:]}",
            "created_by": {"id": creator, "type": "user"}, "principal": {"type": "user_actor", "user_id": creator},
            "scope": {"type": "workspace", "workspace_id": where} if where else {"type": "organization"},
        }  # fmt: skip

    def _workspace(self, asked: Mapping[str, Any]) -> Thing:
        workspace_id = self._new_id("wrkspc")
        usual = {"allowed_inference_geos": "unrestricted", "default_inference_geo": "global", "workspace_geo": "us"}
        return {
            "id": workspace_id, "type": "workspace", "name": asked["name"], "created_at": self._now(), "archived_at": None,
            "display_color": asked.get("display_color") or "#6C5BB9", "tags": asked.get("tags") or {},
            "data_residency": usual | (asked.get("data_residency") or {}), "compartment_id": f"cmpt_{workspace_id}",
            "external_key_id": asked.get("external_key_id"), "user_profile_id": asked.get("user_profile_id"),
        }  # fmt: skip

    def _invite(self, asked: Mapping[str, Any]) -> Thing:
        return {
            "id": self._new_id("invite"), "type": "invite", "email": asked["email"], "role": asked["role"],
            "status": "pending", "invited_at": self._now(), "expires_at": _rfc3339(self._clock() + _INVITE_S),
            "accepted_at": None, "rbac_group_ids": asked.get("rbac_group_ids") or [],
        }  # fmt: skip

    def _now(self) -> str:
        return _rfc3339(self._clock())


def _user(user_id: str, name: str, role: str, added_at: str) -> Thing:
    email = f"{name}@example.com"
    return {"id": user_id, "type": "user", "name": name.title(), "email": email, "role": role, "added_at": added_at}


def _member(workspace_id: str, user_id: str, role: str) -> Thing:
    return {"type": "workspace_member", "user_id": user_id, "workspace_id": workspace_id, "workspace_role": role}


def _limit(kind: str, limit_id: str, models: list[str] | None, rates: Mapping[str, int], name: str = "") -> Thing:
    group = {"id": f"{limit_id}_group", "type": kind} | ({"display_name": name} if name else {})
    values = [{"type": rate, "value": value} for rate, value in rates.items()]
    return {"id": limit_id, "type": "rate_limit", "group": group, "models": models, "limits": values}


def _as_version(thing: Thing, version: str) -> Thing:
    """Return a thing as an API version shows it."""
    if version != OLD_VERSION:
        return thing
    match thing["type"]:
        case "api_key":
            older = {name: value for name, value in thing.items() if name not in ("scope", "principal")}
            return older | {"workspace_id": thing["scope"].get("workspace_id")}
        case "rate_limit":
            return {"type": "rate_limit", "group_type": thing["group"]["type"], "models": thing["models"],
                    "limits": thing["limits"]}  # fmt: skip
        case _:
            return thing


def _chosen(things: Things, query: MultiMapping[str], *exact: str, **several: str) -> list[Thing]:
    """Return the newest first, of those whose fields are as the query wants: *exact*, or one of *several* (parameter=field)."""
    shown = list(things.values())[::-1]
    for name in exact:
        if wanted := query.get(name):
            shown = [thing for thing in shown if thing[name] == wanted]
    for name, field in several.items():
        if some := _several(query, name):
            shown = [thing for thing in shown if thing[field] in some]
    return shown


def _several(query: MultiMapping[str], name: str) -> set[str]:
    return {*query.getall(f"{name}[]", ()), *query.getall(name, ())}


def _page(call: Call, things: list[Thing]) -> web.Response:
    page = by_id(things, call.request.query)
    return call.say(page | {"data": [_as_version(thing, call.version) for thing in page["data"]]})


async def _read(call: Call, required: Mapping[str, Any], more: Mapping[str, Any]) -> Thing:
    """Return a body's fields that are not null; each is of a type, or one of some words."""
    fields = {name: value for name, value in (await call.fields()).items() if value is not None}
    for name in required:
        if name not in fields:
            raise invalid(f"{name}: Field required")
    known = {**required, **more}
    for name, value in fields.items():
        right = known.get(name)
        if right is None:
            raise invalid(f"{name[:100]}: Extra inputs are not permitted")
        if isinstance(right, tuple) and value not in right:
            raise invalid(f"{name}: Input should be one of {', '.join(right)}")
        if isinstance(right, type) and not isinstance(value, right):
            raise invalid(f"{name}: Input should be of another type")
    return fields


def _set(thing: Thing, change: Mapping[str, Any]) -> Thing:
    thing.update(change)
    return thing


def _not_found(what: str) -> Refused:
    return Refused(404, "not_found_error", f"Not found: {what[:100]}")


def _rfc3339(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
