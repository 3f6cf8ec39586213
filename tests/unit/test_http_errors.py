"""How errors are said over HTTP: what the official SDKs make of it."""

import pytest

from headrace.edge.http_errors import Said, say
from headrace.errors import BudgetExhausted, CallerOnHold, HeadraceError, UpstreamError, UpstreamOverloaded


def advice(said: Said) -> str:
    return dict(said.headers).get("x-should-retry", "")


@pytest.mark.parametrize("kind", [BudgetExhausted, CallerOnHold, UpstreamOverloaded])
def test_long_wait(kind: type[HeadraceError]) -> None:
    """An SDK sleeps for as long as it is told to: a wait of days is said, and that no SDK is to sit it out."""
    short, long = (say(kind("spent", retry_after_s=wait_s), "req_1") for wait_s in (60.0, 303_659.0))
    assert (advice(short), dict(short.headers)["retry-after"]) == ("", "60")
    assert (advice(long), dict(long.headers)["retry-after"]) == ("false", "303659")


@pytest.mark.parametrize("is_untried", [False, True])
@pytest.mark.parametrize("status", [400, 429, 529])
def test_long_wait_upstream(status: int, is_untried: bool) -> None:
    """So it is with what upstream says, whether we could ask it again or not, and whatever it advises."""
    advised = (("x-should-retry", "true"),)
    error = UpstreamError("spent", status=status, type="rate_limit_error", retry_after_s=303_659.0, headers=advised)
    error.is_untried = is_untried
    assert advice(say(error, "req_1")) == "false"
