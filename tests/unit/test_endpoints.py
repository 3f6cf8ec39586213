"""The table of endpoints: which row a request gets."""

from __future__ import annotations

import pytest

from headrace import endpoints


@pytest.mark.parametrize(
    ("method", "path", "name", "is_kept", "is_repeatable"),
    [
        ("POST", "/v1/messages", "messages", True, True),
        ("POST", "/v1/messages/", "messages", True, True),
        ("GET", "/v1/messages", "other", False, True),
        ("POST", "/v1/messages/count_tokens", "count_tokens", True, True),
        ("POST", "/v1/chat/completions", "chat", True, True),
        ("GET", "/v1/models", "models", True, True),
        ("GET", "/v1/models/claude-x", "models", True, True),
        ("HEAD", "/v1/models", "other", False, True),
        ("POST", "/v1/messages/batches", "batches", False, False),
        ("GET", "/v1/messages/batches", "batches", False, True),
        ("GET", "/v1/messages/batches/b", "batches", False, True),
        ("DELETE", "/v1/messages/batches/b", "batches", False, True),
        ("POST", "/v1/messages/batches/b/cancel", "batches", False, True),
        ("GET", "/v1/messages/batches/b/results", "batches", False, True),
        ("POST", "/v1/files", "files", False, False),
        ("GET", "/v1/files/f/content", "files", False, True),
        ("DELETE", "/v1/files/f", "files", False, True),
        ("GET", "/v1/organizations", "organization", False, True),
        ("GET", "/v1/organizations/users", "organization", False, True),
        ("POST", "/v1/organizations/invites", "organization", False, False),
        ("POST", "/v1/organizations/api_keys", "organization", False, False),
        ("POST", "/v1/organizations/api_keys/k", "organization", False, True),
        ("POST", "/v1/organizations/workspaces/w", "organization", False, True),
        ("POST", "/v1/organizations/workspaces/w/archive", "organization", False, True),
        ("POST", "/v1/organizations/workspaces/w/members", "organization", False, False),
        ("POST", "/v1/sessions", "other", False, False),
        ("PATCH", "/v1/sessions/s", "other", False, False),
        ("PUT", "/v1/sessions/s", "other", False, True),
    ],
)
def test_rows(method: str, path: str, name: str, is_kept: bool, is_repeatable: bool) -> None:
    """Each request has its row: its name, whether it is kept, whether it may be asked twice."""
    found = endpoints.find(method, path)
    assert (found.name, found.is_kept, found.is_repeatable) == (name, is_kept, is_repeatable)
    assert found.is_admins is (name == "organization")


@pytest.mark.parametrize(
    "path",
    ["", "/", "/v1", "/v1/", "/v2/messages", "/v1//messages", "/v1/a//b", "/v1/.", "/v1/a/..", "/v1/../v1/messages",
     "/v1/%2e%2E/x", "/v1/.%2e/x", "/v1/a%2fb", "/v1/a%5Cb", "/v1/a\\b", "/v1/a b", "/v1/a\n", "/v1/é", "/v1/a%00", "/v1/a;?"],
)  # fmt: skip
def test_no_path(path: str) -> None:
    """What is no path of the API, or may be another one for another reader, has no row."""
    with pytest.raises(ValueError, match="/v1/"):
        endpoints.find("GET", path)


def test_every_name() -> None:
    """Limits can be found for each row, and rows of one name agree on what limits hold for them."""
    for _, _, endpoint in endpoints.rows():
        assert endpoint.name in endpoints.NAMES
        assert endpoints.named(endpoint.name).is_metered is endpoint.is_metered
