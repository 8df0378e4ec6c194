"""`runner verify`, `runner doctor` and the forge's status `runner/verify` say the same of a stored history."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runner.app import request, verify
from runner.app.doctor import checks
from tests.histories.stored import Case, Shelf, cases


def some() -> list[object]:
    """One case of each set of rules that find something, and of what holds; of the others `make slow` tries an eighth at a commit."""
    found: list[object] = []
    seen: set[tuple[bool, tuple[str, ...]]] = set()
    for name, case in cases().items():
        kind = (case.whole, tuple(sorted(case.rules)))
        is_extra = kind in seen or not name.startswith(("attacks", "beside", "good"))
        marks = [pytest.mark.slow, pytest.mark.window(8)] if is_extra else []
        seen.add(kind)
        found.append(pytest.param(name, marks=marks))
    return found


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    held = Shelf(tmp_path_factory.mktemp("shelf"))
    yield held
    held.close()


def is_here(shelf: Shelf, case: Case) -> bool:
    """Whether the protocol's branch is there, and a trusted branch: the surfaces that are compared are about branches."""
    trusted = shelf.ref(case, "main") or shelf.ref(case, "trust")
    return shelf.ref(case, "tip") is not None and trusted is not None


@pytest.mark.parametrize("name", some())
def test_all_surfaces_agree(name: str, shelf: Shelf) -> None:
    case = cases()[name]
    if not is_here(shelf, case):
        return
    session = shelf.session(case)
    code = verify.prove(session, case.protocol)[1]
    found = checks.of_protocol(session, case.protocol, session.project.protocols()[case.protocol])
    # That nobody has the key or role for an open wait is about the people of now, and not about the history.
    kinds = {one.kind for one in found if not one.consequence.endswith("nobody can end the wait")}
    assert ("integrity" in kinds, "here" in kinds and "integrity" not in kinds) == (code == 4, code == 5), kinds
    assert bool(request.verify_summary(session, case.protocol)) == (code != 0)
