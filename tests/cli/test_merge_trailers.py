"""The trailers by which the commit of a merge names the models that worked."""

from __future__ import annotations

import pytest

from tests.conftest import Box, command
from tests.executor.minds import ENGINE, agent, finish, mind, say, write


@pytest.mark.parametrize(
    "option", [("--squash",), ("--no-ff",), ("--no-ff", "-m", "Say why\n\nReviewed-by: Bob <b@b.test>")]
)
def test_a_merge_names_the_models_that_worked_where_the_configuration_wants_it(
    box: Box, option: tuple[str, ...]
) -> None:
    box.write(".protocols/config.yaml", "merge: {assisted_by: true}\n")
    box.commit()
    protocol = box.new({"01-write": agent(), "02-b": command("true")})
    with mind(box, say(write("a.txt", "a\n")), finish()):
        box.runner("run", protocol, rc=0)
    box.runner("merge", protocol, *option, rc=0)

    said = box.git("log", "-1", "--format=%(trailers:key=Assisted-by,valueonly)", "main").strip()
    assert said == f"{ENGINE} ({protocol})"
    if "-m" in option:
        assert box.git("log", "-1", "--format=%(trailers:key=Reviewed-by,valueonly)", "main").strip().startswith("Bob")


@pytest.mark.parametrize("wants", [True, False])
def test_a_merge_without_a_model_or_a_wish_names_none(box: Box, wants: bool) -> None:
    box.write(".protocols/config.yaml", f"merge: {{assisted_by: {str(wants).lower()}}}\n")
    box.commit()
    protocol = box.new({"01-a": command("true")})
    box.runner("run", protocol, rc=0)
    box.runner("merge", protocol, "--no-ff", rc=0)

    assert "Assisted-by" not in box.git("log", "-1", "--format=%B", "main")
