"""The simulator's Admin API, as the official SDK asks it: for Admin keys only, and what it changes stays changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from headrace.simulator import Options, Simulator, start
from simulator_parts import ADMIN, client, listed


@pytest.fixture
async def admin(simulator: Simulator) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The same with an Admin key."""
    async with client(simulator, ADMIN) as some:
        yield some


async def test_admins_only(simulator: Simulator, admin: anthropic.AsyncAnthropic) -> None:
    """The Admin API wants an Admin key, and nothing else takes one."""
    assert (await admin.organization.retrieve()).type == "organization"
    with pytest.raises(anthropic.AuthenticationError):
        await admin.models.list()
    async with client(simulator) as sdk:
        with pytest.raises(anthropic.AuthenticationError):
            await sdk.organization.retrieve()


async def test_named_admins() -> None:
    """An Admin key may also be named, and a named key is only of its kind."""
    options = Options.instant(keys=("k",), admin_keys=("boss",))
    async with await start(options) as simulator, client(simulator, "boss") as boss, client(simulator, "k") as other:
        assert await boss.organization.retrieve()
        assert await other.models.list()
        for refused in (other.organization.retrieve(), boss.models.list()):
            with pytest.raises(anthropic.AuthenticationError):
                await refused


async def test_api_keys(simulator: Simulator, admin: anthropic.AsyncAnthropic) -> None:
    """Keys are listed, changed and made; the two versions name their scope otherwise."""
    keys = await listed(admin.organization.api_keys.list(limit=1))
    assert [key.scope.type for key in keys] == ["workspace", "organization"]
    changed = await admin.organization.api_keys.update(keys[0].id, name="other", status="inactive")
    assert (changed.name, changed.status) == ("other", "inactive")
    assert await admin.organization.api_keys.retrieve(keys[0].id) == changed
    assert [key.id for key in await listed(admin.organization.api_keys.list(status="inactive"))] == [keys[0].id]
    made = await admin.post("/v1/organizations/api_keys", body={"name": "new"}, cast_to=object)
    assert isinstance(made, dict)
    assert made["key"].startswith("sk-ant-sim03-")
    assert (await admin.organization.api_keys.retrieve(made["id"])).name == "new"
    async with client(simulator, ADMIN, "2023-06-01") as older:
        old = await older.get(f"/v1/organizations/api_keys/{keys[0].id}", cast_to=object)
    assert isinstance(old, dict)
    assert old["workspace_id"] == keys[0].scope.workspace_id
    assert "scope" not in old


async def test_workspaces(admin: anthropic.AsyncAnthropic) -> None:
    """Workspaces are made, changed and archived, and have members."""
    workspaces = admin.organization.workspaces
    made = await workspaces.create(name="New", tags={"a": "1", "b": "2"})
    changed = await workspaces.update(made.id, name="Newer", tags={"a": None})
    assert (changed.name, changed.tags, changed.compartment_id) == ("Newer", {"b": "2"}, made.compartment_id)
    users = await listed(admin.organization.users.list())
    added = await workspaces.members.add(made.id, user_id=users[0].id, workspace_role="workspace_user")
    assert [member.user_id for member in await listed(workspaces.members.list(made.id))] == [users[0].id]
    with pytest.raises(anthropic.BadRequestError, match="already"):
        await workspaces.members.add(made.id, user_id=users[0].id, workspace_role="workspace_user")
    promoted = await workspaces.members.update(users[0].id, workspace_id=made.id, workspace_role="workspace_admin")
    assert (added.workspace_role, promoted.workspace_role) == ("workspace_user", "workspace_admin")
    assert await workspaces.members.retrieve(users[0].id, workspace_id=made.id) == promoted
    await workspaces.members.remove(users[0].id, workspace_id=made.id)
    with pytest.raises(anthropic.NotFoundError):
        await workspaces.members.retrieve(users[0].id, workspace_id=made.id)
    archived = await workspaces.archive(made.id)
    assert archived.archived_at is not None
    assert made.id not in [workspace.id for workspace in await listed(workspaces.list())]
    assert made.id in [workspace.id for workspace in await listed(workspaces.list(include_archived=True))]


async def test_users_and_invites(simulator: Simulator, admin: anthropic.AsyncAnthropic) -> None:
    """Users change and go, admins do not; an address is invited once."""
    organization = admin.organization
    [boss] = await listed(organization.users.list(roles=["admin"]))
    [miller] = await listed(organization.users.list(email="miller@example.com"))
    assert (await organization.users.update(miller.id, role="billing")).role == "billing"
    assert (await organization.users.retrieve(miller.id)).role == "billing"
    assert (await organization.users.remove(miller.id)).type == "user_deleted"
    for refused in (organization.users.remove(boss.id), organization.users.update(boss.id, role="user")):
        with pytest.raises(anthropic.BadRequestError, match="Admins"):
            await refused
    made = await organization.invites.create(email="new@example.com", role="developer")
    assert (await organization.invites.retrieve(made.id)).status == "pending"
    with pytest.raises(anthropic.BadRequestError, match="already exists"):
        await organization.invites.create(email="new@example.com", role="developer")
    assert [invite.id for invite in await listed(organization.invites.list(email="new@example.com"))] == [made.id]
    assert (await organization.invites.delete(made.id)).type == "invite_deleted"
    with pytest.raises(anthropic.NotFoundError):
        await organization.invites.delete(made.id)
    simulator.reset()
    assert "miller@example.com" in [user.email for user in await listed(organization.users.list())]


async def test_rate_limits() -> None:
    """The limits that are told are those that are held."""
    async with await start(Options.instant(requests_per_minute=77)) as simulator, client(simulator, ADMIN) as admin:
        limits = admin.organization.rate_limits
        [one] = await listed(limits.list(model="claude-sonnet-5"))
        assert {limit.type: limit.value for limit in one.limits}["requests_per_minute"] == 77
        assert len(await listed(limits.list(limit=1))) == len(await listed(limits.list())) > 2
        assert [limit.group.type for limit in await listed(limits.list(group_type="batch"))] == ["batch"]
        with pytest.raises(anthropic.NotFoundError):
            await limits.list(model="gpt")
        async with client(simulator, ADMIN, "2023-06-01") as older:
            old: Any = await older.get("/v1/organizations/rate_limits", cast_to=object)
        assert old["data"][0]["group_type"] == "model_group"
