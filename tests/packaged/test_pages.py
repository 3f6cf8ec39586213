"""
Every block of code on every page is run by a test, or it is said here why not: page by page and language by language, in the
order of the blocks. A page with a block that is not in the table fails. Whether commands of ours are taken as they are written,
wherever a page names them, tests/unit/test_commands_on_pages.py asks.

    "test_x.py"    runs it, as it stands on the page
    "as test_x.py" runs what it says, in other words
    "not: ..."     is why it is not run
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from deploy import site
from tests.packaged.place import ROOT, Place

from conftest import missing

OTHERS = ("CHANGELOG.md", "THIRD-PARTY.md")  # pages without code
SNIPPETS: dict[str, dict[str, list[str]]] = {
    "CONTRIBUTING.md": {"": ["not: CI runs these targets"]},
    "README.md": {
        "": ["as test_make.py", "as test_cli_config.py", "test_how_to.py"],
        "python": ["test_how_to.py"],
    },
    "clients/go/README.md": {"sh": ["test_first_call.py"], "go": ["test_first_call.py"] * 2},
    "clients/python/README.md": {"": ["as test_wheels.py"], "python": ["as test_examples.py", "test_pages.py"]},
    "clients/typescript/README.md": {
        "sh": ["as test_first_call.py"],
        "ts": ["as clients/typescript/tests/sdk.test.ts", "test_pages.py"],
        "": ["not: CI runs these scripts by make client-typescript"],
    },
    "docs/admin.md": {"": ["as test_admin.py"], "json": ["not: data"]},
    "docs/architecture.md": {"": ["not: a drawing"]},
    "docs/budgets.md": {"sh": ["test_how_to.py"]},
    "docs/clients.md": {"python": ["as tests/others/test_litellm.py"] * 4, "": ["as tests/others/test_llm_cli.py"]},
    "docs/configuration.md": {
        "": ["as test_cli_config.py"] * 3,
        "sh": ["as test_config_environment.py", "as test_demo.py"],
    },
    "docs/first-call.md": {
        "sh": ["test_first_call.py"] * 6,
        "python": ["test_first_call.py"],
        "ts": ["test_first_call.py"],
        "go": ["test_first_call.py"],
    },
    "docs/grpc.md": {
        "python": ["test_pages.py", "test_pages.py", "as test_batches.py"],
        "sh": ["not: grpcurl is none of our packages; test_reflection.py asks what it asks"],
        "json": ["not: data"] * 2,
    },
    "docs/how-to/claude-code.md": {"sh": ["not: Claude Code is no package; as test_how_to.py"], "python": ["test_how_to.py"]},
    "docs/how-to/rehearse-last-week.md": {"sh": ["test_how_to.py"] * 2},
    "docs/how-to/several-hosts.md": {"sh": ["test_how_to.py"], "python": ["test_how_to.py"]},
    "docs/how-to/two-teams.md": {"sh": ["test_how_to.py"] * 3},
    "docs/http.md": {"": ["not: answers, not commands"] * 2},
    "docs/installation.md": {
        "sh": ["not: into the system, which test_packages.py does by packages"] * 13,
        "": ["as test_acl.py"],
    },
    "docs/metrics.md": {"json": ["not: data"]},
    "docs/operate/questions.md": {
        "text": ["not: made by make questions, which gives each command and reads what it says"] * 16
    },
    "docs/operate/state.md": {"sh": ["as test_backups.py"] * 2, "": ["test_balancers.py"], "yaml": ["test_balancers.py"]},
    "docs/packaging.md": {
        "sh": ["as test_wheels.py", "as test_packages.py", "not: no builder of images in CI", "not: no cluster in CI"],
    },
    "docs/rehearse.md": {"sh": ["as test_how_to.py"], "": ["not: data"] * 2},
    "docs/runbook.md": {"yaml": ["as test_dashboard.py"]},
    "docs/security.md": {"sh": ["not: into the system"]},
    "docs/simulator.md": {"": ["as test_demo.py", *["not: answers"] * 3], "python": ["as test_simulator_control.py"]},
    "docs/tickets.md": {"": ["not: a drawing"], "sh": ["as test_letters_command.py"]},
    "docs/traces.md": {"sh": ["as test_traces.py", "not: into the system"], "": ["as test_traces_of_hosts.py"]},
    "docs/usage.md": {"sh": ["test_how_to.py"], "json": ["not: data"]},
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return a page's blocks of code, each with its language. Those in TOML are all checked by test_how_to.py."""
    found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```", (ROOT / page).read_text(), re.M | re.S)
    return [(language, text) for _, language, text in found if language != "toml"]


@pytest.mark.parametrize("page", [page for page in site.pages() if page.name not in OTHERS], ids=str)
def test_all_are_told(page: Path) -> None:
    """Each block of the page is in the table above, and no other; and the tests that it names are there."""
    told = SNIPPETS.get(str(page), {})
    assert Counter(language for language, _ in blocks(page)) == {language: len(rows) for language, rows in told.items()}
    said = " ".join(row for rows in told.values() for row in rows)
    tests = set(re.findall(r"\b(\w+(?:\.test)?\.(?:py|ts))\b", said))
    there = {path.name for place in ("tests", "clients/typescript/tests") for path in (ROOT / place).rglob("*.*")}
    assert tests <= there


def ended(*command: str, directory: Path) -> str:
    """Run a program to its end, and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=directory)
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(page: str, number: int) -> str:
    """Return a block in Python of a page."""
    return [text for language, text in blocks(Path(page)) if language == "python"][number]


@pytest.mark.long
@pytest.mark.parametrize("number", [0, 1])
def test_grpc(number: int, place: Place, tmp_path: Path) -> None:
    """The stubs, as docs/grpc.md uses them."""
    said = ended(sys.executable, "-c", place.put_into(python("docs/grpc.md", number)), directory=tmp_path)
    if number == 0:
        assert re.fullmatch(r"You said.* ANSWER_SOURCE_UPSTREAM 1\n", said, re.S), said


@pytest.mark.long
def test_python_client(place: Place, tmp_path: Path) -> None:
    """The typed client, as its README uses it: a call, a stream, a ticket."""
    program = python("clients/python/README.md", 1).replace("unix:/run/headrace/headrace.sock", place.grpc)
    said = ended(sys.executable, "-c", program, directory=tmp_path)
    assert said.count("You said") == 3, said


@pytest.mark.long
def test_typescript_client(place: Place, tmp_path: Path) -> None:
    """The same in TypeScript."""
    if not shutil.which("node"):
        missing("node")
    _, program = [text for language, text in blocks(Path("clients/typescript/README.md")) if language == "ts"]
    (tmp_path / "node_modules" / "@headrace").mkdir(parents=True)
    (tmp_path / "node_modules" / "@headrace" / "client").symlink_to(ROOT / "clients" / "typescript")
    program = program.replace("unix:/run/headrace/headrace.sock", place.grpc) + "\nconsole.log(ticket.state);\n"
    (tmp_path / "program.mjs").write_text(program)
    said = ended("node", "program.mjs", directory=tmp_path)
    assert "You said" in said
    assert said.rstrip().endswith("succeeded"), said
