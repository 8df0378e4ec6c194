"""QA of a step's work: checks, which are commands in a clean export of a commit, promised outputs, and a review's material and report.

The material is the bounded diff and the sensitive files; parts that do not fit into the bounds are named, never left out in silence.
The executor runs the commands and asks the model.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner import resources
from runner.git import Git, TreeEntry
from runner.lines import few, is_harmless, lines_of, pattern
from runner.protocol import log, paths
from runner.protocol.events import ArtifactFields, CheckEvidence
from runner.protocol.plans import outputs_among

if TYPE_CHECKING:  # outputs are found without a sandbox
    from runner.protocol.model_answers import Verdict
    from runner.sandbox.process import CommandOutcome


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What QA says: `reason` is empty where it passed."""

    evidence: tuple[CheckEvidence, ...]
    reason: str

    @property
    def passed(self) -> bool:
        """Whether every check held."""
        return not self.reason


def artifacts(outputs: Iterable[str], files: Iterable[str], digest_of: Callable[[str], str]) -> list[ArtifactFields]:
    """Return the artifacts that a step's outputs name among the tree's files."""
    known = list(files)
    found = {path for glob in outputs for path in outputs_among(glob, known)}
    return [
        {"name": path.rsplit("/", 1)[-1], "kind": "file", "path": path, "digest": digest_of(path)}
        for path in sorted(found)
    ]


def run_checks(
    outputs: Iterable[str],
    commands: Iterable[str],
    *,
    files: Iterable[str],
    changed: Iterable[str],
    execute: Callable[[str], CommandOutcome],
    explain: Callable[[str, CommandOutcome], str | None],
    ignored: Callable[[], Iterable[str]] = tuple,
) -> CheckResult:
    """Look for the outputs among `files` (or `changed`, where one was deleted), then run the commands, in order.

    All of them run, so that a person sees everything that is wrong at once. `ignored`: the files that the step left and git ignores.
    """
    known, touched = list(files), list(changed)
    evidence: list[CheckEvidence] = []
    reasons = []
    for glob in outputs:
        found = outputs_among(glob, known) or outputs_among(glob, touched)
        check, tail = log.output_check(glob), ", ".join(found[:5])
        evidence.append(CheckEvidence(check=check, code=0 if found else 1, seconds=0, output="", tail=tail))
        if not found and outputs_among(glob, ignored()):
            reasons.append(f"git ignores the output `{glob}`, so no commit has it")
        elif not found:
            reasons.append(f"the output `{glob}` is not there")
    for command in commands:
        outcome = execute(command)
        check, tail, took = log.cut(command), log.cut_tail(outcome.tail), round(outcome.seconds)
        evidence.append(CheckEvidence(check=check, code=outcome.code, seconds=took, output=outcome.digest, tail=tail))
        if not outcome.ok:
            told = "ran out of time" if outcome.timed_out else f"exit {outcome.code}"
            reasons.append(explain(command, outcome) or f"{told}, `{command}`")
    return CheckResult(tuple(evidence), log.cut("; ".join(reasons)))


DIFF_LIMIT = 120_000  # characters of the whole diff
FILE_LIMIT = 24_000  # characters of one file's part
BLOB_LIMIT = 512 * 1024  # bytes of a file that is compared at all
BLOBS_LIMIT = 16 * 1024 * 1024  # bytes of all that are compared
FUNCTION_LIMIT = 1_500  # characters of a hunk that are there to show the whole function around what changed
FUNCTIONS_LIMIT = 6_000  # of all hunks of a file
NAMES_LIMIT = 400  # files that are listed

_TESTS = pattern(
    r"(?:^|/)(?:tests?|specs?|__tests__|testdata|fixtures)/|(?:^|/)(?:test_[^/]*|conftest\.py|[^/]*(?:_test|_spec|\.test|\.spec)\.[^/]+)$",
    re.IGNORECASE,
)
_CI = (
    ".github/*", ".gitlab-ci.yml", ".gitlab/*", ".forgejo/*", ".gitea/*", ".circleci/*", ".woodpecker*", ".travis.yml", ".ci/*",
    "scripts/ci/*", "Jenkinsfile", "azure-pipelines.yml", "Makefile", "*/Makefile", "tox.ini", "noxfile.py",
    ".pre-commit-config.yaml",
)  # fmt: skip
_POLICY = (
    f"{paths.ROOT}/*", "AGENTS.md", "*/AGENTS.md", "CLAUDE.md", "*/CLAUDE.md", "GEMINI.md", "*/GEMINI.md", "CONTRIBUTING.md",
    ".cursorrules", "CODEOWNERS", "*/CODEOWNERS", ".gitattributes", "*/.gitattributes", ".gitmodules",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Touched:
    """The files of a change that decide whether a change is noticed."""

    tests: tuple[str, ...] = ()
    ci: tuple[str, ...] = ()
    policy: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return one line a kind that there is: `tests: tests/test_a.py`."""
        named = (("tests", self.tests), ("CI and what checks run", self.ci), ("policy and instructions", self.policy))
        return [f"{kind}: {few(files, 20)}" for kind, files in named if files]


@dataclass(frozen=True, slots=True)
class Change:
    """A change as a judge is shown it. `left_out`: one line for each thing of it that the diff does not have."""

    files: tuple[str, ...]  # `M src/app.py`
    diff: str
    left_out: tuple[str, ...]
    touched: Touched


def touched_by(changed: Iterable[str], checks: Sequence[str] = ()) -> Touched:
    """Return those of the changed paths that are tests, CI or policy; a file that a check names counts as CI."""
    tests, ci, policy = [], [], []
    words = {word.removeprefix("./") for line in checks for word in re.split(r"[\s;&|()<>\"'=]+", line) if word}
    for path in sorted(changed):
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in _POLICY):
            policy.append(path)
        elif path in words or any(fnmatch.fnmatchcase(path, pattern) for pattern in _CI):
            ci.append(path)
        elif _TESTS.search(path):
            tests.append(path)
    return Touched(tuple(tests), tuple(ci), tuple(policy))


def change(git: Git, protocol: str, before: str, after: str, checks: Sequence[str] = ()) -> Change:
    """Return what differs between two commits outside the protocol's own folder, files to be careful with first."""
    own = f"{paths.folder(protocol)}/"
    pairs = {path: pair for path, pair in git.changed(before, after).items() if not path.startswith(own)}
    found = touched_by(pairs, checks)
    careful = {*found.tests, *found.ci, *found.policy}
    order = sorted(pairs, key=lambda path: (path not in careful, path))
    left_out: list[str] = []
    compared = _compared(git, {path: pairs[path] for path in order}, left_out)
    parts: list[str] = []
    size = 0
    texts, whole = _diffs(git, before, after, compared), _diffs(git, before, after, compared, "--function-context")
    for path in compared:
        text = texts.get(path, "")
        wide = _with_functions(text, whole.get(path, ""))
        if len(wide) <= min(len(text) + FUNCTIONS_LIMIT, FILE_LIMIT):
            text = wide
        if size >= DIFF_LIMIT:
            left_out.append(f"{path}: the diff is full")
            continue
        most = min(FILE_LIMIT, DIFF_LIMIT - size)
        if len(text) > most:
            left_out.append(f"{path}: {len(text) - most:,} of {len(text):,} characters of its diff")
            text = f"{text[:most]}\n[… cut off here …]\n"
        parts.append(text)
        size += len(text)
    names = [f"{_kind(pairs[path])} {path}" for path in order]
    if len(names) > NAMES_LIMIT:
        names = [*names[:NAMES_LIMIT], f"… and {len(names) - NAMES_LIMIT:,} more files"]
    return Change(tuple(names), "".join(parts), tuple(left_out), found)


def _kind(pair: tuple[TreeEntry | None, TreeEntry | None]) -> str:
    return "A" if pair[0] is None else "D" if pair[1] is None else "M"


def _compared(git: Git, pairs: dict[str, tuple[TreeEntry | None, TreeEntry | None]], left_out: list[str]) -> list[str]:
    """Return the paths whose text is compared; the others are named in `left_out`, with the reason."""
    kept: list[str] = []
    total = 0
    for path, pair in pairs.items():
        oids = [entry.oid for entry in pair if entry is not None]
        sizes = [size or 0 for size in git.sizes(oids)]
        if max(sizes) > BLOB_LIMIT or total + sum(sizes) > BLOBS_LIMIT:
            left_out.append(f"{path}: too big to be shown, {max(sizes):,} bytes")
        elif any(size and b"\0" in git.require(oid, path)[:8000] for oid, size in zip(oids, sizes, strict=True)):
            left_out.append(f"{path}: binary, {sizes[-1]:,} bytes")
        else:
            kept.append(path)
            total += sum(sizes)
    return kept


def _diffs(git: Git, before: str, after: str, wanted: Sequence[str], *options: str) -> dict[str, str]:
    """Return each path's part of the diff. No attribute of the change's own can hide a file: all is compared as text."""
    functions = f"core.attributesFile={resources.template('functions.gitattributes')}"
    found: dict[str, str] = {}
    for at in range(0, len(wanted), 200):
        some = list(wanted[at : at + 200])
        out = git.run(
            "diff-tree", "-r", "-p", "--text", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color", *options,
            before, after, "--", *some, env={"GIT_LITERAL_PATHSPECS": "1"}, config=[functions],
        ).decode("utf-8", "replace")  # fmt: skip
        # A line of a diff starts with +, -, @, \ or a space; a file that became a link has two parts with one headline.
        parts: list[str] = []
        for part in re.split(r"(?m)^(?=diff --git )", out)[1:]:
            same = parts and parts[-1].split("\n", 1)[0] == part.split("\n", 1)[0]
            parts[-1:] = [parts[-1] + part] if same else [*parts[-1:], part]
        # They come in the order of their paths' bytes.
        found |= dict(zip(sorted(some, key=lambda path: path.encode("utf-8", "surrogateescape")), parts, strict=True))
    return found


def _with_functions(text: str, whole: str) -> str:
    """Return a file's part of the diff, with the whole function in the place of hunks that are in one of moderate size."""
    if len(re.findall(r"(?m)^diff --git ", whole)) != 1:  # a file that became a link has two
        return whole
    head, *wide = re.split(r"(?m)^(?=@@ )", whole)
    narrow = re.split(r"(?m)^(?=@@ )", text)[1:]
    chosen, left = [head], [(_first_line(one), one) for one in narrow]
    for at, hunk in enumerate(wide):
        until = _first_line(wide[at + 1]) if at + 1 < len(wide) else None
        inside = [one for first, one in left if until is None or first < until]
        left = left[len(inside) :]
        short = "".join(inside)
        chosen.append(hunk if len(hunk) <= len(short) + FUNCTION_LIMIT else short)
    return "".join(chosen)


def _first_line(hunk: str) -> int:
    """Return where a hunk starts, in the file as it was."""
    found = re.match(r"@@ -(\d+)", hunk)
    return int(found[1]) if found else 0


# --- the report ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Report:
    """The report of one review. `judges`: each reviewer's engine, by its name; `author`: that which worked, empty where none did."""

    slug: str
    attempt: int
    verdict: Verdict
    judges: Mapping[str, str]
    author: str
    tree: str
    evidence: Sequence[CheckEvidence]
    seen: Change

    def render(self) -> bytes:
        """Return `reports/SLUG.ATTEMPT.md`. A model's text is in it as plain indented text that no forge renders."""
        same = " (the model that did the work, in a conversation of its own)"
        judges = [_code(name) + same * (engine == self.author) for name, engine in self.judges.items()]
        lines = [
            f"# QA of {self.slug}, attempt {self.attempt}: {self.verdict.verdict}",
            "",
            f"- judged by: {', '.join(judges)}",
            f"- the work is by: {_code(self.author or 'a person or a command')}",
            f"- tree: {_code(self.tree)}",
            f"- files changed: {len(self.seen.files)}",
            "",
            _indented(self.verdict.summary),
            "",
        ]
        if self.seen.touched.lines():
            lines += ["## Tests, CI and policy that it touched", ""]
            lines += [
                f"- {kind}: {_code(files)}"
                for kind, _, files in (one.partition(": ") for one in self.seen.touched.lines())
            ]
            lines.append("")
        lines += [f"## Findings: {len(self.verdict.findings)}", ""]
        for number, one in enumerate(self.verdict.findings, 1):
            place = f"{one.file}:{one.line}" if one.file and one.line else one.file
            told = [f"**{one.severity}**", *([_code(place)] if place else [])]
            told += [f"criterion {_code(one.criterion)}"] if one.criterion else []
            lines += [f"{number}. {' · '.join(told)}", "", _indented(one.text, "       "), ""]
        if self.verdict.earlier:
            lines += ["## Findings of earlier reviews", ""]
            for said in self.verdict.earlier:
                how = "closed" if said.closed else "open"
                lines += [f"- {_code(said.id)} · **{how}**", "", _indented(said.text), ""]
        if self.evidence:
            lines += ["## Checks", ""]
            for check in self.evidence:
                lines.append(
                    f"- {'passed' if check['code'] == 0 else 'exit ' + str(check['code'])}: {_code(check['check'])}"
                )
            lines.append("")
        if self.seen.left_out:
            lines += ["## What the judge was not shown", ""]
            lines += [f"- {_code(line)}" for line in self.seen.left_out[:NAMES_LIMIT]]
            lines.append("")
        return "\n".join(lines).rstrip("\n").encode("utf-8", "replace") + b"\n"


def plain(text: str) -> str:
    """Return a model's text without what steers a terminal or turns its direction round."""
    return "".join(
        char if char == "\n" or is_harmless(char) else " " for char in text.replace("\r\n", "\n").replace("\t", "    ")
    )


def _code(text: str) -> str:
    return f"`{' '.join(plain(text).replace('`', chr(39)).split())}`"


def _indented(text: str, by: str = "    ") -> str:
    return "\n".join(f"{by}{line}".rstrip() for line in lines_of(plain(text).strip()))
