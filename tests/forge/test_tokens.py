"""Where tokens come from, with real programs in the place of `gh`, `glab` and credential helpers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.forge import ForgeProject, Token, TokenMissingError
from runner.forge.registry import configured, token_of


def place(setting: str) -> ForgeProject:
    found = configured(setting, None)
    assert found is not None
    return found


GITHUB = place("github https://github.com/owner/shop")
ENTERPRISE = place("github https://github.example.test/owner/shop")
GITLAB = place("gitlab https://gitlab.com/g/s")
OTHER_LAB = place("gitlab https://code.example.test/g/s")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A person with a HOME of their own, git, and no program of a forge's."""
    programs = tmp_path / "bin"
    programs.mkdir()
    git = next(Path(p) / "git" for p in os.environ["PATH"].split(":") if (Path(p) / "git").exists())
    (programs / "git").symlink_to(git)
    (tmp_path / "home").mkdir()
    return {"HOME": str(tmp_path / "home"), "PATH": f"{programs}:/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1"}


def program(environ: dict[str, str], name: str, script: str) -> None:
    at = Path(environ["PATH"].split(":")[0]) / name
    at.write_text(f"#!/bin/sh\n{script}\n")
    at.chmod(0o755)


def helper(environ: dict[str, str], script: str) -> None:
    """A credential helper of the person's own."""
    program(environ, "git-credential-person", script)
    (Path(environ["HOME"]) / ".gitconfig").write_text("[credential]\n helper = person\n")


def test_the_runners_own_variable_comes_first(environ: dict[str, str]) -> None:
    environ |= {"RUNNER_FORGE_TOKEN": "own", "GITHUB_TOKEN": "other"}
    assert token_of(GITHUB, environ) == Token("own", "RUNNER_FORGE_TOKEN")
    assert token_of(OTHER_LAB, environ).value == "own"


def test_a_variable_is_for_the_public_forge_or_the_one_that_ci_names(environ: dict[str, str]) -> None:
    environ |= {"GITHUB_TOKEN": "public", "GITLAB_TOKEN": "lab"}
    assert token_of(GITHUB, environ) == Token("public", "GITHUB_TOKEN")
    assert token_of(GITLAB, environ).value == "lab"
    for elsewhere in (ENTERPRISE, OTHER_LAB):
        with pytest.raises(TokenMissingError, match="there is no token") as told:
            token_of(elsewhere, environ)
        assert "it is for git" in told.value.where  # ….com
        assert "public" not in str(told.value) and "lab_" not in str(told.value)
    environ |= {"GITHUB_SERVER_URL": "https://github.example.test", "GITLAB_HOST": "code.example.test"}
    assert token_of(ENTERPRISE, environ).value == "public"
    assert token_of(OTHER_LAB, environ).value == "lab"
    with pytest.raises(TokenMissingError):
        token_of(GITHUB, environ)


def test_a_forges_own_program_is_asked_by_host_and_without_tokens(environ: dict[str, str], tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    program(
        environ,
        "gh",
        f'env > {seen}; pwd >> {seen}; [ "$*" = "auth token --hostname github.example.test" ] && echo from-gh',
    )
    program(environ, "glab", '[ "$*" = "config get token --host code.example.test" ] && echo from-glab')
    environ |= {"GH_TOKEN": "canary", "GITHUB_TOKEN": "canary", "GITLAB_TOKEN": "canary"}
    found = token_of(ENTERPRISE, environ)
    assert found == Token("from-gh", "`gh auth token --hostname github.example.test`")
    assert token_of(OTHER_LAB, environ).value == "from-glab"
    assert "canary" not in seen.read_text() and seen.read_text().splitlines()[-1] == "/"


def test_gits_credential_helper_comes_last(environ: dict[str, str]) -> None:
    helper(environ, "[ $1 = get ] && sed -n 's/^host=/username=x\\npassword=of-/p'")
    assert token_of(ENTERPRISE, environ) == Token("of-github.example.test", "git's credential helper")


def test_a_repositorys_helper_has_no_say(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.system(
        f"git init -q {tmp_path}/repo && git -C {tmp_path}/repo config credential.helper '!echo password=evil; touch {tmp_path}/ran #'"
    )
    monkeypatch.chdir(tmp_path / "repo")
    with pytest.raises(TokenMissingError):
        token_of(ENTERPRISE, environ)
    assert not (tmp_path / "ran").exists()


def test_what_fails_or_has_nothing_is_passed_over(environ: dict[str, str]) -> None:
    program(environ, "gh", "echo nobody is logged in >&2; exit 1")
    helper(environ, "exit 1")
    with pytest.raises(TokenMissingError) as told:
        token_of(GITHUB, environ)
    assert told.value.exit_code == 2
    for word in ("RUNNER_FORGE_TOKEN", "GITHUB_TOKEN", "gh auth token", "credential helper"):
        assert word in told.value.where
    assert "gh auth login" in told.value.hint and GITHUB.kind.rights in told.value.hint


def test_what_is_no_token_is_not_sent(environ: dict[str, str]) -> None:
    program(environ, "gh", "printf 'two\\nlines'")
    with pytest.raises(TokenMissingError, match="no token") as told:
        token_of(GITHUB, environ)
    assert "lines" not in str(told.value)


def test_a_token_stands_in_no_repr() -> None:
    assert "canary" not in repr(Token("canary", "somewhere"))
