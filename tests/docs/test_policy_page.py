"""docs/policy.md says what the models say, and its examples hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.app import check
from runner.protocol import policy_file
from runner.protocol.file_models import FileModel
from runner.protocol.policy_file import Approval, Example, Limits, Match, Policy
from runner.trust import policy
from tests.conftest import Box
from tests.docs.test_files_page import keys_of, table

PAGE = Path(__file__).parents[2] / "docs/policy.md"
MODELS: dict[str, type[FileModel]] = {model.__name__: model for model in (Policy, Match, Limits, Approval, Example)}


@pytest.mark.parametrize("name", MODELS)
def test_the_page_names_every_key_and_no_other(name: str) -> None:
    assert table(PAGE.read_text(), name) == keys_of(MODELS[name])


def test_the_policies_of_the_page_are_read_and_their_examples_hold() -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    read = [policy_file.parse(text.encode(), "the page") for text in blocks]
    tried = [one for file in read for one in check.examples(file, policy.BUILT_IN)]
    assert len(read) == 2 and len(tried) == 4
    assert [one for one in tried if not one.holds] == []
    assert [policy.notes(file) for file in read] == [[], []]


def test_the_session_of_the_page_is_what_is_printed(box: Box) -> None:
    page = PAGE.read_text()
    (session,) = re.findall(r"^```console\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    box.write(".protocols/policy.yaml", re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0])
    box.commit("policy")
    shown = "".join(
        f"$ {line}\n{box.runner(*line.split()[1:]).out}" for line in re.findall(r"^\$ (.*)$", session, re.MULTILINE)
    )
    assert shown == session


def test_what_is_protected_by_default_stands_on_the_page() -> None:
    told = PAGE.read_text()
    alike = {"CLAUDE.md", "GEMINI.md", ".cursorrules"}  # AGENTS.md "and its kind"
    for glob in policy.PROTECTED:
        name = glob.removeprefix("**/").removesuffix("**")
        assert name in alike or f"`{name}`" in told, glob
