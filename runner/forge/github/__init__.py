"""GitHub and GitHub Enterprise: its row of `FORGES`."""

from __future__ import annotations

from typing import Final

from runner.forge.base import ForgeKind
from runner.forge.github.adapter import GitHub


def _is_host(host: str) -> bool:
    return "github" in host.split(".") or host.endswith(".ghe.com")


def _api(scheme: str, host: str, path: str) -> str | None:
    if path.count("/") != 1:
        return None
    if host == "github.com":
        return "https://api.github.com"
    return f"https://api.{host}" if host.endswith(".ghe.com") else f"{scheme}://{host}/api/v3"


KIND: Final = ForgeKind(
    name="github",
    is_host=_is_host,
    ssh_hosts={"ssh.github.com": "github.com"},
    api=_api,
    open=GitHub,
    token_variables=("GITHUB_TOKEN", "GH_TOKEN"),
    host_variables=("GITHUB_SERVER_URL", "GH_HOST"),
    public_host="github.com",
    token_command=("gh", "auth", "token", "--hostname"),
    login="gh auth login",
    # Contents write is needed to mark a draft ready, or a draft again.
    rights="Metadata and Checks read, Contents, Pull requests and Commit statuses write (a classic token: `repo`)",
    scopes=("repo", "public_repo"),
    writer_role="Write",
    require_verify="make `runner/verify` a required check",
    ci_files={
        ".github/actions/protocol-runner/action.yml": "github/action.yml",
        ".github/workflows/protocol-advance.yml": "github/protocol-advance.yml",
        ".github/workflows/protocol-events.yml": "github/protocol-events.yml",
        ".github/workflows/protocol-qa.yml": "github/protocol-qa.yml",
        ".github/workflows/protocol-verify.yml": "github/protocol-verify.yml",
        ".github/PULL_REQUEST_TEMPLATE/protocol.md": "github/pull_request.md",
    },
)
