"""`runner list` and what it is narrowed to."""

from __future__ import annotations

import pytest

from tests.conftest import Box, command


@pytest.fixture
def four(box: Box) -> dict[str, str]:
    """A protocol that is ready, one that failed, one to be merged and one that is merged."""
    made = {
        name: box.new({"01-a": command(run)}, title=name)
        for name, run in (("ready", "true"), ("failed", "false"), ("done", "echo a > a"), ("merged", "echo b > b"))
    }
    box.runner("run", made["failed"], rc=1)
    for name in ("done", "merged"):
        box.runner("run", made[name], rc=0)
    box.runner("merge", made["merged"], rc=0)
    return made


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ([], {"ready", "failed", "done", "merged"}),
        (["--open"], {"ready", "failed", "done"}),
        (["--ready"], {"ready"}),
        (["--waiting"], {"failed", "done"}),
    ],
)
def test_a_list_is_narrowed_to_what_is_asked_for(
    box: Box, four: dict[str, str], option: list[str], shown: set[str]
) -> None:
    out = box.runner("list", *option, rc=0).out
    assert {name for name in four if out and name in {line.split()[-1] for line in out.splitlines()}} == shown
    rows = box.runner("list", "--json", *option, rc=0).json()["protocols"]
    assert {row["title"] for row in rows} == shown


def test_a_list_without_a_match_says_so(box: Box) -> None:
    box.new({"01-a": command("true")})
    told = box.runner("list", "--waiting", rc=0)
    assert told.out == "" and "runner list` shows all" in told.err
