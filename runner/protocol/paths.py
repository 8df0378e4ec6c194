"""The paths of a protocol's files, as functions of its id. Paths are relative to the tree's root, with `/`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runner.protocol.ids import STEP_FILE

ROOT = ".protocols"
AGENTS = f"{ROOT}/agents"
CONFIG = f"{ROOT}/config.yaml"
CLARIFICATIONS = f"{ROOT}/clarifications.yaml"
POLICY = f"{ROOT}/policy.yaml"
MEMORY = f"{ROOT}/memory/"
SIGNERS = f"{ROOT}/allowed_signers"
REVOKED = f"{ROOT}/revoked_keys"
APPROVALS = "approvals/"
PLAN = "plan.md"
CONTEXT = "context.md"
STATE = "state.json"
LOG = "log.md"
SEAL = "seal"  # in the history, beside the transcripts


def folder(protocol: str) -> str:
    """Return the protocol's folder, without a slash at its end."""
    return f"{ROOT}/{protocol}"


def agent_file(name: str) -> str:
    """Return the path of an agent file."""
    return f"{AGENTS}/{name}.yaml"


def pinned_tools_file(server: str) -> str:
    """Return the path of an MCP server's pinned list of tools."""
    return f"{ROOT}/mcp/{server}.json"


def call_file(call: str) -> str:
    """Return the name of a held call's file in the protocol's folder; `call` is such as `deploy.1.3`."""
    return f"calls/{call}.json"


def report_file(slug: str, attempt: int) -> str:
    """Return the name of an attempt's QA report in the protocol's folder."""
    return f"reports/{slug}.{attempt}.md"


def is_plan_file(name: str) -> bool:
    """Return whether `name`, relative to the protocol's folder, is a plan file, which people write and the runner never does."""
    return name in (PLAN, CONTEXT) or STEP_FILE.fullmatch(name) is not None


def is_top_markdown(name: str) -> bool:
    """Return whether `name` lies at the top of the protocol's folder and is Markdown, but for the log: a plan file, or a file that
    people may take for one."""
    return name.endswith(".md") and name != LOG and "/" not in name


def is_record(name: str) -> bool:
    """Return whether `name`, relative to the protocol's folder, is written by the runner alone."""
    return name in (STATE, LOG) or name.startswith(("log/", "calls/", "reports/"))


def is_for_people(path: str) -> bool:
    """Return whether a step's work may not change a path: it is below `.protocols`, in whatever case, and not below memory/."""
    return path.partition("/")[0].casefold() == ROOT and not path.startswith(MEMORY)


def odd_names(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the names that files of a protocol's folder cannot have: (one that is not plain ASCII, "") or (one, other) of two that
    differ in case only."""
    folded: dict[str, str] = {}
    for name in names:
        if not name.isascii() or not name.isprintable() or "\\" in name:
            yield name, ""
        if (other := folded.setdefault(name.lower(), name)) != name:
            yield name, other
