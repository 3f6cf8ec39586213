"""
The tables of docs/endpoints.md, made from what is there: `python -m tests.comparison.table` writes them.

The first is what was seen when each call was made (`cells.py`), the second is the daemon's own table (`headrace.endpoints`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from comparison.cells import ENDPOINTS, WAYS, Cells, Endpoint
from comparison.pair import pair
from comparison.typescript import node
from headrace import endpoints

PAGE = Path(__file__).parent.parent.parent / "docs/endpoints.md"
CELLS, POLICY = "ways", "policy"  # the names of the tables in the page

_MB = 1_000_000
_METHODS = {"SAFE": "GET, HEAD, PUT, DELETE", "*": "any other"}


def cells(seen: Iterable[tuple[Endpoint, dict[str, str]]]) -> str:
    """Return the first table, of all rows as they were seen."""
    rows = [[" ".join(_titled(row)), f"`{row.method} {row.path}`", *(said[way] for way in WAYS)] for row, said in seen]
    return _table(["", "endpoint", *WAYS], rows)


def policy() -> str:
    """Return the second table."""
    rows = [
        [
            _METHODS.get(method, method), f"`{_readable(path)}`", how.name, _yes(how.is_kept), _yes(how.is_metered),
            _yes(how.is_repeatable), f"{how.max_body // _MB} MB" if how.max_body else "", _span(how.timeout_s),
            "admin" if how.is_admins else "",
        ]
        for method, path, how in endpoints.rows()
    ]  # fmt: skip
    return _table(["method", "path", "name", "kept", "metered", "repeatable", "body up to", "answer within", "role"], rows)


def written(page: str, name: str) -> str:
    """Return the table of that name in the page."""
    found = _marked(name).search(page)
    assert found, f"the page has no marks for {name}"
    return found[2].strip("\n") + "\n"


def replaced(page: str, name: str, table: str) -> str:
    """Return the page with another table of that name."""
    return _marked(name).sub(lambda found: f"{found[1]}\n{table}\n{found[3]}", page)


def _marked(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: [^>]*-->\n)(.*?)(<!-- end -->)", re.DOTALL)


def _titled(row: Endpoint) -> tuple[str, str]:
    group, does = row.title
    return f"{group}:", does


def _readable(pattern: str) -> str:
    """Return a path as people write it: `/v1/models[/{id}]`."""
    plain = "/v1/..." if pattern == "/.*" else pattern.replace("[^/]+", "{id}").replace("/.*", "/...")
    return re.sub(r"\(([^)|]*)\)\?", r"[\1]", plain).replace("|", " or ")


def _yes(value: bool) -> str:
    return "yes" if value else ""


def _span(seconds: float | None) -> str:
    return f"{seconds / 60:g} min" if seconds else "`retry.max_age`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *rows))


def main() -> None:
    with pair() as both, node() as process:
        performed = Cells(both, process)
        seen = [(endpoint, performed.fill(endpoint)) for endpoint in ENDPOINTS]
        performed.close()
    for where, why in performed.why.items():
        print(f"{where}: {why}", file=sys.stderr)
    page = PAGE.read_text()
    PAGE.write_text(replaced(replaced(page, CELLS, cells(seen)), POLICY, policy()))


if __name__ == "__main__":
    main()
