"""
Who may do what: one table, by RPC and by path. Pure. Both doors ask it, and nothing else decides.

A rule says which role may do it at all, and from which role on it means everybody's things and not only one's own. Whose a
thing is, owner.py says; that somebody is who it says it is, keys do. Where callers are not told apart (no key is asked for, and
none of theirs goes upstream) a name that anybody can give bounds nothing, so whatever is there is everybody's. Only tickets are
found by the name that they were made under even then, so that services do not get in each other's way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from headrace.errors import NotAllowed
from headrace.model import Role

_ORDER = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, slots=True)
class Rule:
    """
    Who may do one thing.

    Args:
        least: the least role that may; None: whoever asks, without a key.
        all_from: from which role on it means everybody's things; None: from none, each has its own.
    """

    least: Role | None = Role.CALLER
    all_from: Role | None = Role.CALLER

    def check(self, role: Role) -> None:
        """Raise `NotAllowed` if this role may not."""
        if self.least is not None and not _is(role, self.least):
            raise NotAllowed(
                f"This is for callers with the role {self.least} (caller.NAME.role with auth.required, or auth.default_role)."
            )

    def is_limited(self, role: Role, *, told_apart: bool) -> bool:
        """Whether this role is limited to its own; *told_apart* says that callers are who they say they are."""
        return self.all_from is None or (told_apart and not _is(role, self.all_from))


PUBLIC = Rule(None, None)
CALLS = Rule()
"""A call: what it asks is its caller's, and there is nothing of others in it."""
OWN = Rule(all_from=None)
SEEN = Rule(all_from=Role.OBSERVER)
"""What observers see of all."""
LETTERS = Rule(all_from=Role.OPERATOR)
"""What failed for good: its caller's to try again, and an operator's."""
WATCHED = Rule(Role.OBSERVER)
"""What is of all callers, or of none. Where no key is asked for, who is on this machine sees the live page (admin/asker.py)."""
STEERED = Rule(Role.OPERATOR)
"""What changes how everybody's calls go."""
LENT = Rule(all_from=Role.ADMIN)
"""What upstream holds for callers under our one key, and what they share."""
ADMINS = Rule(Role.ADMIN)


_CALLS = (
    "MessagesService.CreateMessage", "MessagesService.StreamMessage", "MessagesService.CountTokens",
    "MessagesService.SubmitMessage", "ModelsService.ListModels", "ModelsService.GetModel",
    "ChatService.CreateChatCompletion", "ChatService.StreamChatCompletion",
    "ApiService.Call",  # the path inside has a rule of its own
)  # fmt: skip
_LENT = (
    "MessageBatchesService.CreateMessageBatch", "MessageBatchesService.GetMessageBatch",
    "MessageBatchesService.ListMessageBatches", "MessageBatchesService.CancelMessageBatch",
    "MessageBatchesService.DeleteMessageBatch", "MessageBatchesService.StreamMessageBatchResults",
    "CacheService.PurgeCache",
)  # fmt: skip
_OWN = (
    "TicketsService.GetTicket", "TicketsService.WaitTicket", "TicketsService.WatchTicket", "TicketsService.CancelTicket",
    "TicketsService.ListTickets",  # others' for ADMINS, by a field of the request
)  # fmt: skip
_LETTERS = (
    "LettersService.ListLetters", "LettersService.GetLetter", "LettersService.RequeueLetter", "LettersService.DropLetter",
)  # fmt: skip
_SEEN = (
    "CacheService.GetCacheStats", "UsageService.GetUsage", "BudgetsService.ListBudgets", "BudgetsService.GetBudget",
    "OperatorService.ExplainCall", "OperatorService.ForecastCall",
)  # fmt: skip
_WATCHED = (
    "OperatorService.GetStatus", "OperatorService.ListHosts", "OperatorService.ListAllTickets", "OperatorService.GetAnyTicket",
    "OperatorService.ListActs",
)  # fmt: skip
_STEERED = (
    "BudgetsService.SetLimit", "BudgetsService.DeleteLimit", "BudgetsService.HoldCaller", "BudgetsService.ReleaseCaller",
    "OperatorService.DrainHost", "OperatorService.ResumeHost", "OperatorService.CancelAnyTicket",
    "OperatorService.RequeueTicket", "OperatorService.DropTicket",
)  # fmt: skip
_ADMINS = (
    "OrganizationService.ListApiKeys", "OrganizationService.CreateApiKey", "OrganizationService.GetApiKey",
    "OrganizationService.UpdateApiKey", "OrganizationService.ListWorkspaces", "OrganizationService.CreateWorkspace",
    "OrganizationService.GetWorkspace", "OrganizationService.UpdateWorkspace", "OrganizationService.ArchiveWorkspace",
    "OrganizationService.ListUsers", "OrganizationService.GetUser", "OrganizationService.UpdateUser",
    "OrganizationService.RemoveUser", "OrganizationService.ListInvites", "OrganizationService.CreateInvite",
    "OrganizationService.GetInvite", "OrganizationService.DeleteInvite", "OrganizationService.GetRateLimits",
)  # fmt: skip
_PUBLIC = (
    "grpc.health.v1.Health.Check", "grpc.health.v1.Health.List", "grpc.health.v1.Health.Watch",
    "grpc.reflection.v1.ServerReflection.ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo",
)  # fmt: skip

RPCS: dict[str, Rule] = {
    **{f"headrace.v1.{name}": rule for rule, names in (
        (CALLS, _CALLS), (LENT, _LENT), (OWN, _OWN), (LETTERS, _LETTERS), (SEEN, _SEEN), (WATCHED, _WATCHED),
        (STEERED, _STEERED), (ADMINS, _ADMINS),
    ) for name in names},
    **dict.fromkeys(_PUBLIC, PUBLIC),
}  # fmt: skip
"""Every RPC by its full name; one that is not here is nobody's."""

PATHS: tuple[tuple[str, str, Rule], ...] = (
    ("*", "/(healthz|readyz|metrics)", PUBLIC),
    ("POST", "/admin/api/.*", STEERED),
    ("*", "/admin(/.*)?", WATCHED),
    ("*", "/v1/organizations(/.*)?", ADMINS),
    ("POST", "/v1/(messages|messages/count_tokens|chat/completions)/?", CALLS),
    ("GET", "/v1/models(/[^/]+)?/?", CALLS),
    ("HEAD", "/v1/models(/[^/]+)?/?", CALLS),
    ("*", "/v1/.*", LENT),
)
"""Method, "*" for any, and path by pattern; the first that fits holds."""

_COMPILED = tuple((method, re.compile(pattern), rule) for method, pattern, rule in PATHS)


def of_rpc(name: str) -> Rule:
    """Return the rule of an RPC of ours, "TicketsService.GetTicket"; KeyError for one that has none."""
    return RPCS[f"headrace.v1.{name}"]


@lru_cache(4096)
def of_path(method: str, path: str) -> Rule:
    """Return the rule of a path, its query left out; there is nothing at one that has none, and whoever asks is told so."""
    found = (rule for asked, pattern, rule in _COMPILED if asked in ("*", method) and pattern.fullmatch(path))
    return next(found, PUBLIC)


def _is(role: Role, least: Role) -> bool:
    return _ORDER[role] >= _ORDER[least]
