"""The pages say what the code is: names that one of them lists are those of the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer
from prometheus_client import generate_latest

import headrace
from headrace import errors, main, observe
from headrace.config import Settings
from headrace.config.tables import CallerSettings, LimitTable, MatchTable, fields_of
from headrace.edge import http_errors, status
from headrace.instruments import Instrument

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "daemon" / "headrace"
PAGES = sorted(
    path
    for path in (
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "SECURITY.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "clients").glob("*.md"),
        *(ROOT / "clients").glob("*/*.md"),
    )
)


def page(name: str) -> str:
    return (ROOT / name).read_text()


def metrics() -> Iterator[str]:
    for value in vars(observe).values():
        if isinstance(value, Instrument):
            yield value.name


def events() -> dict[str, str]:
    """The names of log events, by constant."""
    return {name: value for name, value in vars(observe).items() if name.isupper() and isinstance(value, str)}


def settings(table: type[msgspec.Struct] = Settings, prefix: str = "") -> Iterator[str]:
    """Every key of the configuration, as a path; limits and callers are tables of tables."""
    for name, kind in fields_of(table).items():
        inner = {"limit": LimitTable, "caller": CallerSettings}.get(f"{prefix}{name}", kind)
        under = f"{prefix}{name}." + ("NAME." if inner is CallerSettings else "")
        is_table = isinstance(inner, type) and issubclass(inner, msgspec.Struct)
        if is_table and inner is not MatchTable:
            yield from settings(inner, under)
        else:
            yield f"{prefix}{name}"


def test_metrics() -> None:
    """docs/metrics.md has every metric and every log event, and no other."""
    said = page("docs/metrics.md")
    assert set(re.findall(r"^\| `((?:headrace|gen_ai)_\w+)` \|", said, re.M)) == set(metrics())
    assert set(re.findall(r"^\| `(\w+\.\w+)` \|", said, re.M)) == set(events().values())


def test_metrics_are_shown() -> None:
    """What is on the page is on `/metrics`, each metric of it."""
    shown = {name.removesuffix("_total") for name in re.findall(r"^# TYPE (\w+) ", generate_latest().decode(), re.M)}
    assert {name.removesuffix("_total") for name in metrics()} <= shown


def test_metrics_have_readings() -> None:
    """What has a name is counted or read somewhere: none is there for nothing."""
    code = "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "observe.py")
    named = [name for name, value in vars(observe).items() if isinstance(value, Instrument)]
    assert [name for name in named if not re.search(rf"\bobserve\.{name}\b", code)] == []


def test_events_happen() -> None:
    """Every log event on the page is one that the code can log."""
    code = "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "observe.py")
    assert [name for name in events() if f"observe.{name}" not in code] == []


def test_configuration() -> None:
    """docs/configuration.md has a row for every key."""
    said = page("docs/configuration.md")
    assert [key for key in settings() if f"| `{key}` |" not in said] == []


def test_example() -> None:
    """config.example.toml has every key, as README says: with a value, or in a remark beside one."""
    said = page("config.example.toml")
    assert [key for key in settings() if not re.search(rf"\b{key.rpartition('.')[2]}\b", said)] == []


def test_make_targets() -> None:
    """Every `make` command on a page is a target."""
    targets = set(re.findall(r"^([a-z-]+):", page("Makefile"), re.M))
    asked = {target for path in PAGES for target in re.findall(r"\bmake ([a-z-]+)(?=[`\s])", _code(path))}
    assert {"demo", "test"} <= asked
    assert asked <= targets


def test_commands() -> None:
    """README's table has every command, and no other."""
    rows = re.findall(r"^\| `headrace ([a-z ]+)`((?:, `[a-z]+`)*) \|", page("README.md"), re.M)
    groups = [(first.split(), re.findall(r"\w+", others)) for first, others in rows]
    said = {" ".join((*words[:-1], last)) for words, others in groups for last in (words[-1], *others)}
    assert said == set(commands(main.app))


def commands(app: typer.Typer, prefix: str = "") -> Iterator[str]:
    for command in app.registered_commands:
        yield prefix + (command.name or getattr(command.callback, "__name__", ""))
    for group in app.registered_groups:
        yield from commands(group.typer_instance, f"{prefix}{group.name} ")


def test_links() -> None:
    """Files that a page links to, or names in its promises, are there."""
    for path in PAGES:
        linked = re.findall(r"\]\(([^)#:]+)\)", path.read_text())
        named = re.findall(r"`((?:tests|docs|daemon|systemd)/[\w/.]+\.\w+)`", path.read_text())
        assert [name for name in (*linked, *named) if not (path.parent / name).exists() and not (ROOT / name).exists()] == []


def test_map() -> None:
    """The map in headrace/__init__.py has every module and package, and no other."""
    there = {path.stem for path in PACKAGE.glob("*.py")} | {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    rows = [line for line in (headrace.__doc__ or "").splitlines() if re.match(r"    [a-z]\w*/? {2,}", line)]
    said = {column.split()[0] for row in rows for column in (row[4:46], row[46:]) if column.strip()}
    assert said == there - {"__init__", "__main__"}


def test_grpc_errors() -> None:
    """docs/grpc.md has every reason with its code."""
    rows = {reason: cells for cells in _rows("docs/grpc.md") for reason in re.findall(r"`([A-Z_]+)`", cells[0])}
    for kind in _errors():
        assert kind.reason in rows, kind
        if kind not in (errors.UpstreamError, errors.OutOfTime):
            assert rows[kind.reason][1] == status.row(_made(kind)).code.name


def test_http_errors() -> None:
    """docs/http.md has every status with its type, but for those that HTTP never meets."""
    rows = {(cells[0], cells[1].strip("`")) for cells in _rows("docs/http.md")}
    for kind in _errors() - {
        errors.UpstreamError,
        errors.OutOfTime,
        errors.BrokenStream,
        errors.NotAllowed,
        errors.TicketNotFound,
    }:
        said = http_errors.say(_made(kind), "req")
        assert (str(said.status), msgspec.json.decode(said.body)["error"]["type"]) in rows, kind


def _errors() -> set[type[errors.HeadraceError]]:
    kinds = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.HeadraceError)}
    return kinds - {errors.Refusal, errors.AttemptFailed}  # never said as such


def _made(kind: type[errors.HeadraceError]) -> Any:
    more = {"status": 502} if issubclass(kind, errors.UpstreamError) else {}
    return kind("", **more)


def _rows(name: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in page(name).splitlines() if line.startswith("|")]


def _code(path: Path) -> str:
    """What a page says in code: between backticks, and in blocks."""
    return "\n".join(f"{part} " for part in re.findall(r"```.*?```|`[^`\n]+`", path.read_text(), re.S))
