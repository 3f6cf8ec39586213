"""The `llm` command with its plugin llm-anthropic: `ANTHROPIC_BASE_URL` in its environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from staging import MODEL


@pytest.fixture
def llm(stage, tmp_path):
    """Return a way to run the command, with a configuration of its own."""
    environment = {
        "PATH": os.environ["PATH"],
        "LLM_USER_PATH": str(tmp_path),
        "ANTHROPIC_BASE_URL": stage.edge,
        "ANTHROPIC_API_KEY": "unused",
    }
    command = [str(Path(sys.executable).with_name("llm")), "-m", MODEL]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=True)

    return run


def test_chat(stage, llm):
    """A chat in one piece, and the same as a stream: the command looks the same to upstream, which is asked once."""
    whole, streamed = llm("--no-stream", "llm, a chat"), llm("llm, a chat")
    assert whole.stdout == streamed.stdout
    stage.answered("llm, a chat", whole.stdout.rstrip("\n"), stream=True)  # the plugin asks for streams, whatever it prints


def test_pieces(stage, llm):
    """What a stream had said before it broke off is printed, with the reason; so its pieces are passed on as they come."""
    stage.breaks_off("llm, half a stream", after_deltas=12)  # the first half of them is thought, which goes to standard error
    with pytest.raises(subprocess.CalledProcessError) as failed:
        llm("llm, half a stream")
    printed = failed.value.stdout.rstrip("\n")
    assert printed.startswith('You said: "llm, half a stream"')
    assert len(printed) < len(stage.says("llm, half a stream"))
    assert "Overloaded" in failed.value.stderr


def test_tool(stage, llm):
    """A tool of its own is called, and the answer to what it returned ends the chain."""
    ran = llm("-T", "llm_version", "--tools-debug", "llm, use the tool")
    assert "Tool call: llm_version({})" in ran.stderr
    assert ran.stdout.strip().startswith("You said:")
    assert len(stage.calls("llm, use the tool")) == 1
