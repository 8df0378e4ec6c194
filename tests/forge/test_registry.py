"""Which forge it is, what opens it, and what is imported for it."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from runner.errors import UsageError
from runner.forge import ForgeProject
from runner.forge.registry import FORGES, configured, guess
from runner.protocol.config import ForgeName


@pytest.mark.parametrize(
    ("url", "name", "host", "path", "api"),
    [
        ("git@github.com:owner/shop.git", "github", "github.com", "owner/shop", "https://api.github.com"),
        ("https://github.com/owner/shop", "github", "github.com", "owner/shop", "https://api.github.com"),
        ("ssh://git@ssh.github.com:443/owner/shop.git", "github", "github.com", "owner/shop", "https://api.github.com"),
        ("https://x-access-token:secret@github.com/owner/shop.git", "github", "github.com", "owner/shop", "https://api.github.com"),
        ("https://acme.ghe.com/owner/shop", "github", "acme.ghe.com", "owner/shop", "https://api.acme.ghe.com"),
        ("git@github.example.test:o/s.git", "github", "github.example.test", "o/s", "https://github.example.test/api/v3"),
        ("git@gitlab.com:group/sub/shop.git", "gitlab", "gitlab.com", "group/sub/shop", "https://gitlab.com"),
        ("https://GitLab.example.test:8443/g/s.git/", "gitlab", "gitlab.example.test:8443", "g/s", "https://gitlab.example.test:8443"),
        ("ssh://git@gitlab.example.test:2222/g/s.git", "gitlab", "gitlab.example.test", "g/s", "https://gitlab.example.test"),
    ],
)  # fmt: skip
def test_a_remote_tells_its_forge(url: str, name: str, host: str, path: str, api: str) -> None:
    found = guess(url)
    assert found is not None
    assert (found.kind.name, found.host, found.path, found.api) == (name, host, path, api)
    assert "secret" not in repr(found)
    assert configured(name, url) == found


@pytest.mark.parametrize(
    "url",
    ["/srv/git/shop.git", "../shop", "file:///srv/shop.git", "git@code.example.test:g/s.git", "https://notgithub.com/o/s",
     "https://github.com.evil.example/o/s", "git@github.com:shop.git", "https://github.com/a/b/c", "https://github.com/../x",
     "ext::sh -c x", "https://github.com:x/o/s", ""],
)  # fmt: skip
def test_other_remotes_tell_none(url: str) -> None:
    found = guess(url)
    # A host with `github` as a label of its own is offered as one; it is a guess, and a token goes by the host's whole name.
    assert found is None or found.host == "github.com.evil.example"


def test_nothing_is_configured_unless_it_is() -> None:
    assert configured(None, "git@github.com:owner/shop.git") is None
    assert configured("none", "git@github.com:owner/shop.git") is None
    found = configured("gitlab https://code.example.test/g/s", "git@alias:g/s.git")
    assert found is not None and (found.kind.name, found.host, found.path) == ("gitlab", "code.example.test", "g/s")
    other = configured("gitlab", "git@code.example.test:g/s.git")
    assert other == found


@pytest.mark.parametrize(
    ("setting", "url", "match"),
    [
        ("gitea", "git@github.com:o/s.git", "no forge `gitea`"),
        ("github", "/srv/shop.git", "/srv/shop.git names no project"),
        ("github", None, "there is no remote"),
        ("gitlab http://code.example.test/g/s", None, "unencrypted"),
        ("github not-an-address", None, "not-an-address names no project"),
    ],
)
def test_what_names_no_place_is_refused(setting: str, url: str | None, match: str) -> None:
    with pytest.raises(UsageError, match=match) as told:
        configured(setting, url)
    assert "forge:" in told.value.where


def test_the_table_of_forges_has_the_names_of_the_configuration() -> None:
    assert {*FORGES, "none"} == {*get_args(ForgeName)}


@pytest.mark.parametrize("name", ["github", "gitlab"])
def test_an_sdk_is_imported_when_the_first_question_is_asked(name: str) -> None:
    code = (
        "import sys\n"
        "from runner.forge.registry import configured, open_forge\n"
        f"place = configured({name!r}, 'https://{name}.com/o/s')\n"
        "open_forge(place, {'RUNNER_FORGE_TOKEN': 'x', 'PATH': ''}, float, lambda seconds: None).close()\n"
        "print(sorted({'github', 'gitlab', 'requests', 'tenacity', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_place_is_a_value() -> None:
    assert isinstance(guess("git@github.com:o/s.git"), ForgeProject)
