"""The how-tos, README and the runbook, executed: each configuration is right, each command does what is said of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import grpc
import pytest
from deploy import site
from headrace_client import Headrace
from headrace_client.v1 import messages_service_pb2_grpc, models_service_pb2, models_service_pb2_grpc
from tests.packaged.place import ROOT, Place, serving_at

from daemon_process import HEADRACE, environment, headrace

PLACE = ROOT / "docs" / "how-to"
OURS = [*sorted(PLACE.glob("*.md")), ROOT / "docs" / "budgets.md", ROOT / "docs" / "usage.md"]  # whose commands are run
# Commands that are not run here, and why.
ELSEWHERE = {
    "headrace usage --export-traffic week.jsonl": "test_rehearse",
    "headrace config check --config new.toml": "test_rehearse",
    "headrace rehearse new.toml --traffic week.jsonl --daemons 6": "test_rehearse",
    "headrace rehearse": "test_rehearse",
    "export ANTHROPIC_BASE_URL=http://127.0.0.1:7480": "Claude Code is no package",
    "export ANTHROPIC_AUTH_TOKEN=unused": "Claude Code is no package",
    'export ANTHROPIC_CUSTOM_HEADERS="x-headrace-caller: claude-code"': "Claude Code is no package",
}
QUESTION = {"role": "user", "content": "What is a headrace?"}


def blocks(page: Path, language: str) -> list[str]:
    """Return a page's blocks of code in a language."""
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", page.read_text(), re.M | re.S)


def configurations() -> list[tuple[str, str]]:
    """Return each configuration that a page shows, with the page's name."""
    return [(page.stem, text) for page in site.pages() for text in blocks(ROOT / page, "toml")]


@pytest.mark.parametrize(("page", "text"), configurations())
def test_configuration(page: str, text: str, tmp_path: Path) -> None:
    """It is right, as it stands there."""
    (tmp_path / "config.toml").write_text(textwrap.dedent(text))
    done = headrace("config", "check", "--only-file", "--config", str(tmp_path / "config.toml"), environ=environment(tmp_path))
    assert done.returncode == 0, done.stderr


def commands(page: Path) -> list[str]:
    """Return the commands of a page, a line each."""
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line]


@pytest.mark.long
def test_commands(place_of_teams: Place, tmp_path: Path) -> None:
    """Each command of the how-tos, and those of ours in the runbook, beside a daemon with two teams' configuration."""
    with Headrace(place_of_teams.grpc, caller="checkout") as client:
        client.messages.create(model="claude-haiku-4-5", max_tokens=20, messages=[QUESTION])
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    said = [line for page in OURS for line in commands(page) if line not in ELSEWHERE]
    said += [line for line in re.findall(r"`(headrace [^`]*|curl [^`]*)`", runbook) if line not in ELSEWHERE]
    said += ["headrace release reports", "headrace limits unset org"]
    assert len(said) > 12
    for line in said:
        done = shell(place_of_teams.put_into(line), place_of_teams, tmp_path)
        assert done.returncode == 0, (line, done.stdout, done.stderr)


@pytest.mark.long
def test_rehearse(tmp_path: Path) -> None:
    """What came is exported, and a configuration is rehearsed on it."""
    page = PLACE / "rehearse-last-week.md"
    _, new = blocks(page, "toml")
    with serving_at(HEADRACE, tmp_path, USAGE__TRAFFIC="on") as place:
        with Headrace(place.grpc, caller="reports") as client:
            for number in range(3):
                client.messages.create(model="claude-haiku-4-5", max_tokens=20, messages=[QUESTION | {"content": f"{number}"}])
        (tmp_path / "new.toml").write_text(new)
        place.served.wait(lambda: shell("headrace usage --export-traffic week.jsonl", place, tmp_path).returncode == 0)
        for line in commands(page):
            done = shell(line, place, tmp_path)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
    assert "reports" in done.stdout


@pytest.mark.long
def test_balanced(place: Place) -> None:
    """The channel of the page reaches a daemon, though one of its addresses is nobody's."""
    (program,) = blocks(PLACE / "several-hosts.md", "python")
    scope: dict[str, object] = {}
    exec(program.replace("127.0.0.1:7400", place.grpc).replace("127.0.0.1:7401", "127.0.0.1:9"), scope)
    channel = scope["channel"]
    assert isinstance(channel, grpc.Channel)
    with channel:
        models = models_service_pb2_grpc.ModelsServiceStub(channel)
        assert [models.ListModels(models_service_pb2.ListModelsRequest(), timeout=30) for _ in range(4)]
        assert messages_service_pb2_grpc.MessagesServiceStub(channel)


@pytest.mark.long
@pytest.mark.parametrize("page", [ROOT / "README.md", PLACE / "claude-code.md"])
def test_sdk(page: Path, place: Place, tmp_path: Path) -> None:
    """The official SDK, told another address and nothing else."""
    (program,) = blocks(page, "python")
    done = subprocess.run(
        [sys.executable, "-c", place.put_into(program) + "\nprint(message.content[0].text)"],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.startswith("You said"), done.stderr


@pytest.mark.long
def test_readme_curl(place: Place, tmp_path: Path) -> None:
    """README's curl."""
    (command,) = re.findall(r"^(curl -i .*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    done = shell(place.put_into(command), place, tmp_path)
    assert "200 OK" in done.stdout, done.stdout
    assert "x-headrace-source" in done.stdout.lower()


@pytest.mark.long
def test_as_claude_code(place: Place) -> None:
    """What Claude Code sends, as far as a daemon can tell: a beta query, a bearer, many betas, tools, a stream."""
    body = {
        "model": "claude-haiku-4-5", "max_tokens": 32, "stream": True, "messages": [QUESTION],
        "system": [{"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}}],
        "tools": [{"name": "Bash", "description": "Run.", "input_schema": {"type": "object", "properties": {}}}],
        "metadata": {"user_id": "user_1"},
    }  # fmt: skip
    head = {"authorization": "Bearer unused", "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14"}
    head |= {"x-headrace-caller": "claude-code", "anthropic-version": "2023-06-01", "content-type": "application/json"}
    command = ["curl", "-sS", f"{place.http}/v1/messages?beta=true", "-d", json.dumps(body)]
    command += [part for name, value in head.items() for part in ("-H", f"{name}: {value}")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "event: message_stop" in said, said


def shell(line: str, place: Place, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of a page, with the program of this checkout on the path, for the daemon of *place*."""
    path = {"PATH": f"{Path(HEADRACE).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["sh", "-euc", line], cwd=directory, env=place.served.environ | path | reach(place), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def reach(place: Place) -> dict[str, str]:
    """Return what tells commands where this place's daemon listens."""
    return {"HEADRACE_LISTEN__GRPC": json.dumps([place.grpc])}


@pytest.fixture(scope="module")
def place_of_teams(tmp_path_factory: pytest.TempPathFactory):
    """A daemon with the configuration of two teams."""
    directory = tmp_path_factory.mktemp("t")
    (text,) = blocks(PLACE / "two-teams.md", "toml")
    (directory / "config.toml").write_text(text)
    with serving_at(HEADRACE, directory, CONFIG=str(directory / "config.toml"), AUTH__DEFAULT_ROLE="admin") as place:
        yield place
