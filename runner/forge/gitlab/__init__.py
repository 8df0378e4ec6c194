"""GitLab: its row of `FORGES`."""

from __future__ import annotations

from typing import Final

from runner.forge.base import ForgeKind
from runner.forge.gitlab.adapter import GitLab

JOBS: Final = ".gitlab/protocol-runner.yml"  # the jobs that `runner init` writes, and that child pipelines extend


KIND: Final = ForgeKind(
    name="gitlab",
    is_host=lambda host: "gitlab" in host.split("."),
    ssh_hosts={"altssh.gitlab.com": "gitlab.com"},
    api=lambda scheme, host, path: f"{scheme}://{host}",
    encodes_path=True,
    open=GitLab,
    token_variables=("GITLAB_TOKEN",),
    host_variables=("CI_SERVER_URL", "GITLAB_HOST"),
    public_host="gitlab.com",
    token_command=("glab", "config", "get", "token", "--host"),
    login="glab auth login",
    rights="scope `api` and the role Developer; Maintainer to see protected branches",
    scopes=("api",),
    writer_role="Developer",
    require_verify="Settings, Merge requests: tick `Pipelines must succeed`, of which our statuses are part",
    protecting_exposes_secrets=True,
    ci_files={
        ".gitlab-ci.yml": "gitlab/gitlab-ci.yml",
        JOBS: "gitlab/protocol-runner.yml",
        ".gitlab/merge_request_templates/protocol.md": "gitlab/merge_request.md",
    },
    ci_entry=".gitlab-ci.yml",
    ci_include=(JOBS, f"include: [{{local: {JOBS}}}]"),
)
