"""Logs tell where a fault of ours is, and never what a call asked."""

from __future__ import annotations

import logging

import pytest
import structlog

from headrace import logs, observe


def fail(prompt: str) -> None:
    local = prompt * 2  # noqa: F841  what a traceback with locals would show
    raise ZeroDivisionError


@pytest.mark.parametrize("console", [True, False])
def test_no_locals(capsys: pytest.CaptureFixture[str], console: bool) -> None:
    """A logged exception has its traceback, without the values of variables; on a terminal too."""
    before, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    structlog.reset_defaults()
    try:
        logs.set_up_logs(console=console)
        try:
            fail("my " + "secret")
        except ZeroDivisionError:
            structlog.get_logger().exception(observe.CALL_FAILED)
        said = capsys.readouterr().err
    finally:
        structlog.configure(**before)
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    assert "ZeroDivisionError" in said
    assert "test_observe.py" in said
    assert "my secret" not in said
