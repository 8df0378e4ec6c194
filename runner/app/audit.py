"""`audit`: a protocol on one page, for the person who must sign off: its plan, work, approvals, cost and changes; and `--attest`.

The page shows the record as plain data beside the verdict of verify; it proves nothing itself, and names the command that does.
Everything on it is text of people, models or programs: all text is escaped, and only elements made here are markup. The page needs
nothing else and can do nothing: no script, no request, one style that its own policy names by its digest.

`--attest`: the products of a protocol's steps, as in-toto statements with SLSA provenance, one per completed step. They repeat the
record in a common form, and are as trustworthy as it: the caller prints none of a record that does not verify. Nothing is signed
here; a person who publishes them wraps and signs them with their own tool.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from runner import __version__, resources
from runner.app import timeline, verify
from runner.app.describe import count
from runner.app.timeline import Timeline, cost_of
from runner.errors import InsufficientHistoryError, RunnerError, UsageError, installs
from runner.git import GitError
from runner.lines import counted
from runner.protocol import approval_file, log, paths
from runner.protocol.approval_file import SUFFIX
from runner.protocol.event_types import event_type
from runner.protocol.ids import digest as digest_of
from runner.protocol.log import RawEntry
from runner.protocol.state import read_json
from runner.store import history, record
from runner.store.project import Session
from runner.trust.walk import Report

if TYPE_CHECKING:
    from runner.protocol.state import Row

GENERATOR = "protocol-runner audit"
DIFF_LINES = 20_000  # lines of the difference that are shown
TEXT_MOST = 200_000  # characters of one file
_OUTSIDE = ("held", "intent", "outcome", "settled")


@dataclass(frozen=True, slots=True)
class Page:
    """The page of a protocol. `lacks`: what brings its difference, where that is not in this partial clone; the page says so."""

    data: bytes
    lacks: str


def audit(session: Session, protocol: str, report: Report, *, cannot_tell: bool, now: str) -> Page:
    """Return the page. `report`: the verdict of verify; `cannot_tell`: verify lacks objects; `now`: the time, for its foot."""
    chain = Timeline(session, protocol)
    row = chain.row
    lacks = ""
    try:
        difference = _difference(chain, row)
    except GitError:
        if not session.git.is_partial() or session.mirror is not None:
            raise
        lacks = history.brings(protocol, session.to_ask, f"audit {protocol}")
        difference = element("p", f"The difference is not in this clone: {lacks}.", class_="warn")
    sections = (
        ("Verdict", "verdict", _verdict(chain, report)),
        ("Plan and steps", "plan", _plan(chain, row)),
        ("Approvals and answers", "approvals", _approvals(chain)),
        ("Effects", "effects", _effects(chain)),
        ("Cost", "cost", _cost(chain, row)),
        ("Transcripts", "transcripts", _transcripts(chain)),
        ("Timeline", "timeline", _timeline(chain)),
        ("Difference", "difference", difference),
    )
    title = f"{protocol}: {row['title']}"
    page = document(
        title,
        resources.template("audit/page.css").read_text("utf-8"),
        element("header", element("h1", title), _banner(report, cannot_tell), _facts(chain, row)),
        element("nav", [element("a", name, href=f"#{at}") for name, at, _ in sections], aria_label="Sections"),
        element("main", [element("section", element("h2", name, id=at), inside) for name, at, inside in sections]),
        element("footer", element("p", f"Made {now} by protocol-runner {__version__} from {chain.tip}.", class_="dim")),
        generator=f"{GENERATOR} {__version__}",
    )
    return Page(page, lacks)


# --- parts ---------------------------------------------------------------------------------------------------------------


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[Part]], numbers: Sequence[int] = ()) -> Html:
    """Return a table that can be moved sideways where it is too wide; `numbers`: columns of them."""
    if not rows:
        return element("p", f"{caption}: none.", class_="dim")

    def cell(tag: str, at: int, inside: Part) -> Html:
        extra = {"scope": "col"} if tag == "th" else {}
        return element(tag, inside, **extra, **({"class_": "number"} if at in numbers else {}))

    top = element("tr", [cell("th", at, name) for at, name in enumerate(head)])
    body = [element("tr", [cell("td", at, inside) for at, inside in enumerate(row)]) for row in rows]
    table = element("table", element("caption", caption), element("thead", top), element("tbody", body))
    return element("div", table, class_="wide", tabindex="0", role="region", aria_label=caption)


def _list(pairs: Sequence[tuple[str, Part]]) -> Html:
    return element("dl", [part for name, told in pairs for part in (element("dt", name), element("dd", told))])


def _code(value: object) -> Html:
    return element("code", str(value))


def _block(data: bytes | str | None) -> Html:
    shown = data.decode("utf-8", "replace") if isinstance(data, bytes) else data or ""
    cut = len(shown) > TEXT_MOST
    return element("pre", shown[:TEXT_MOST], f"\n… {len(shown) - TEXT_MOST:,} more characters" if cut else None)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


# --- verdict -----------------------------------------------------------------------------------------------------------------


def _banner(report: Report, cannot_tell: bool) -> Html:
    if cannot_tell:
        return element("p", "It cannot be verified here: history or objects are missing.", class_="verdict warn")
    if report.ok:
        told = f"{counted(report.transitions, 'transition')}, {counted(report.approvals, 'approval')}; {verify.signed(report)}"
        return element("p", f"The record verifies: {told}.", class_="verdict good")
    findings = counted(len(report.findings), "finding")
    return element("p", f"The record does NOT verify: {findings}.", class_="verdict bad")


def _verdict(chain: Timeline, report: Report) -> Html:
    rows = [(found.rule, _code(found.commit[:12]), _code(found.path), found.text) for found in report.findings]
    known = report.walk.signed == report.transitions > 0
    proves = (
        "A record that verifies proves: only transitions that the rules allow changed the record; no transition "
        "changed code or plan files that it does not name; the approvals that were used were given by those people, and sufficed "
        f"under the policy at that time{'; each transition was signed by a runner that the policy lists' if known else ''}. "
        f"It does not prove {'' if known else 'who ran a transition, for transitions are not signed, or '}that this is the newest one."
    )
    return element(
        "div",
        _table("Findings", ("rule", "commit", "path", "what"), rows),
        element("ul", [element("li", note) for note in report.notes]) if report.notes else None,
        element("p", proves),
        element("p", "To check it again, in a clone: ", _code(f"runner verify {chain.protocol}"), class_="dim"),
    )


def _facts(chain: Timeline, row: Row) -> Html:
    first = chain.entries[0] if chain.entries else None
    merged = record.Merges(chain.git, chain.session.project.trusted.remote).base_with(
        chain.protocol, row.get("base", ""), chain.tip
    )
    pairs: list[tuple[str, Part]] = [
        ("status", f"{row['status']}, revision {row['revision']}"),
        ("started", f"{first.time} by {first.actor}" if first else "not known"),
        (
            "base",
            f"{row.get('base', 'not known')}, which holds this record" if merged else str(row.get("base", "not known")),
        ),
        ("commit", _code(chain.tip)),
        ("genesis", _code(row.get("genesis", "not known"))),
        ("trusted branch", f"{chain.session.project.trusted.branch} at {chain.session.project.trusted.commit}"),
    ]
    if chain.session.project.trusted.note:
        pairs.append(("", chain.session.project.trusted.note))
    return _list(pairs)


# --- plan --------------------------------------------------------------------------------------------------------------------


def _plan(chain: Timeline, row: Row) -> Html:
    folder = paths.folder(chain.protocol)
    parts: list[Part] = []
    for name in (paths.PLAN, paths.CONTEXT):
        data = chain.git.blob(f"{chain.tip}:{folder}/{name}")
        parts += [element("h3", f"{folder}/{name}"), _block(data)] if data is not None else []
    for slug, step in record.open_steps(row):
        name, data = record.step_file(chain.git, chain.protocol, chain.tip, slug)
        attempt = count(step.get("attempt")) or 1
        told = [
            str(step["status"]).replace("_", " "),
            str(step.get("kind")),
            f"attempt {attempt}",
            f"qa {step.get('qa')}",
        ]
        last = chain.last_of(slug, attempt)
        told += [str(last.fields[key]) for key in ("engine", "executor") if last and last.fields.get(key)]
        parts.append(element("h3", f"{record.label(row, slug)}: {step.get('title')}"))
        parts.append(element("p", " · ".join(told), class_="good" if step["status"] == "completed" else "warn"))
        parts += [_block(data)] if name else []
        rows = [
            (str(check["check"]), _outcome(check["code"]), str(check["time"])) for check in chain.checks(slug, attempt)
        ]
        parts += [_table(f"Checks of {slug}", ("check", "ended", "time"), rows)] if rows else []
        report = chain.git.blob(f"{chain.tip}:{folder}/{paths.report_file(slug, attempt)}")
        parts += [element("h3", f"Review of {slug}"), _block(report)] if report is not None else []
        if step.get("result") is not None:
            parts += [
                element("h3", f"Result of {slug}"),
                _block(json.dumps(step["result"], indent=2, ensure_ascii=False)),
            ]
    return element("div", parts)


def _outcome(code: object) -> Html:
    return element("span", "passed", class_="good") if code == 0 else element("span", f"exit {code}", class_="bad")


# --- approvals and answers ---------------------------------------------------------------------------------------------------


def _approvals(chain: Timeline) -> Html:
    """Return decisions and answers, and each signed statement with its outcome."""
    asked = {f"w{entry.revision}": entry for entry in chain.entries}
    counted = []
    for entry in chain.entries:
        if entry.event not in ("approval-counted", "call-decided", "approval-refused", "answered"):
            continue
        wait = asked.get(str(entry.fields.get("wait")))
        about = f"{wait.fields.get('kind', 'call')} {wait.fields.get('call', wait.subject)}" if wait else entry.subject
        by = entry.fields.get("by", entry.actor)
        said = entry.fields.get("decision") or entry.fields.get("reason") or entry.fields.get("text") or "approved"
        reviews = f"; reviews: {_plain(entry.fields['reviews'])}" if entry.fields.get("reviews") else ""
        people = ", ".join(map(str, by)) if isinstance(by, list) else str(by)
        counted.append((str(entry.revision), entry.time, about, people, f"{_plain(said)}{reviews}"))
    return element(
        "div",
        _table("Decisions and answers, as recorded", ("rev.", "time", "on", "by", "text"), counted, (0,)),
        _table(
            "Signed statements in approvals/",
            ("who", "decision", "on", "issued, expires", "of", "reason", "used"),
            list(_statements(chain)),
        ),
    )


def _statements(chain: Timeline) -> Iterator[Sequence[Part]]:
    used: dict[str, list[int]] = {}
    for entry in chain.entries:
        named = entry.fields.get("approvals")
        for name in named if isinstance(named, list) else ():
            used.setdefault(str(name), []).append(entry.revision)
    for name, said in chain.statements.items():
        if isinstance(said, RunnerError):
            yield ("?", element("span", said.what, class_="bad"), _code(name), "", "", "", "never")
            continue
        revisions = ", ".join(f"revision {one}" for one in used.get(name.removesuffix(approval_file.SUFFIX), ()))
        yield (
            said.approver,
            str(said.decision),
            f"{said.subject}{f', attempt {said.attempt}' if said.attempt else ''}",
            f"{said.issued}, {said.expires}",
            element("span", _code(said.digest), ", seen at ", _code(said.seen[:12])),
            said.reason,
            revisions or "not needed",
        )


# --- effects, cost, transcripts -----------------------------------------------------------------------------------------


def _effects(chain: Timeline) -> Html:
    events = [
        (
            str(entry.revision),
            entry.time,
            entry.event,
            str(entry.fields.get("call", entry.subject)),
            _told(chain, entry),
        )
        for entry in chain.entries
        if event_type(entry.event).about == "call"
    ]
    calls: list[Sequence[Part]] = []
    for name, data in history.transcripts(chain.git, chain.protocol):
        for line in data.decode("utf-8", "replace").split("\n"):
            told = read_json(line)
            if isinstance(told, dict) and told.get("kind") in _OUTSIDE:
                about = {
                    key: told[key]
                    for key in ("text", "how", "error", "content", "decision")
                    if told.get(key) is not None
                }
                calls.append((str(told.get("time")), str(told["kind"]), str(told.get("call")), str(told.get("tool", "")),
                              _code(name), _plain(about)[:2000]))  # fmt: skip
    held = []
    folder = f"{paths.folder(chain.protocol)}/calls"
    for name in chain.git.tree(f"{chain.tip}:{folder}") or {}:
        held += [element("h3", f"{folder}/{name}"), _block(chain.git.blob(f"{chain.tip}:{folder}/{name}"))]
    return element(
        "div",
        _table("Calls that waited for approval, and unknown effects", ("rev.", "time", "event", "call", "what"), events, (0,)),
        _table(
            "Calls that reach outside, by the transcripts",
            ("time", "what", "call", "tool", "transcript", "result"),
            calls,
        ),
        held,
    )  # fmt: skip


def _money(usd: str | None) -> str:
    return "not known" if usd is None else f"${usd}"


def _cost(chain: Timeline, row: Row) -> Html:
    rows = []
    for slug, _ in record.open_steps(row):
        for attempt in chain.attempts(slug):
            told = chain.cost(slug, attempt)
            if chain.of(slug, attempt):
                rows.append((slug, str(attempt), str(told["seconds"]), f"{told['input_tokens']:,}",
                             f"{told['output_tokens']:,}", _money(told["usd"])))  # fmt: skip
    whole = cost_of(chain.entries)
    rows.append(("all, planning too", "", str(whole["seconds"]), f"{whole['input_tokens']:,}",
                 f"{whole['output_tokens']:,}", _money(whole["usd"])))  # fmt: skip
    head = ("step", "attempt", "seconds", "tokens in", "tokens out", "money")
    return _table("What each attempt cost, its checks included", head, rows, (1, 2, 3, 4, 5))


def _transcripts(chain: Timeline) -> Html:
    there = {name: data for name, data in history.transcripts(chain.git, chain.protocol)}
    digests = {digest_of(data): name for name, data in there.items()}
    rows: list[Sequence[Part]] = []
    for entry in chain.entries:
        named = entry.fields.get("transcript")
        if named is None:
            continue
        name = digests.get(str(named))
        # An attempt that waited files its transcript again, longer each time: the last one is what is here.
        later = any(other.fields.get("transcript") and other.subject == entry.subject and other.revision > entry.revision
                    for other in chain.entries)  # fmt: skip
        found: Part = _code(name) if name else "an earlier state of one that continued" if later and there else element(
            "span", "not here", class_="warn"
        )  # fmt: skip
        engine = str(entry.fields.get("engine") or "")
        rows.append((str(entry.revision), f"{entry.event} {entry.subject}", engine, _code(named), found))
    return element(
        "div",
        _table("Transcripts that the record names by digest", ("rev.", "event", "engine", "digest", "file"), rows, (0,)),
        element("p", "They lie in ", _code(f"{history.ref_of(chain.protocol)}:runs/"), "; ",
                _code(f"runner show {chain.protocol} STEP --transcript"), " shows one.", class_="dim") if rows else None,
    )  # fmt: skip


# --- timeline, difference -------------------------------------------------------------------------------------------------


def _told(chain: Timeline, entry: RawEntry) -> Html:
    """Return what an entry says, and all its fields behind a click."""
    found = timeline.account(entry, chain.protocol)
    checks = [element("div", f"{check.name}: {check.outcome}, {check.took}") for check in found.checks]
    texts = [_block(text) for _, text in found.texts]
    fields = [element("div", f"{key}: {_plain(value)}", class_="mono") for key, value in entry.fields.items()]
    every = element("details", element("summary", "all fields", class_="dim"), fields) if fields else None
    return element("div", element("div", " · ".join(found.parts)), checks, texts, every)


def _timeline(chain: Timeline) -> Html:
    rows = [
        (str(entry.revision), entry.time, f"{entry.event} {entry.subject}", entry.actor, _told(chain, entry))
        for entry in chain.entries
    ]
    return _table("Every event of the record, oldest first", ("rev.", "time", "event", "by", "what"), rows, (0,))


def _difference(chain: Timeline, row: Row) -> Html:
    try:
        before = _before(chain, row)
    except InsufficientHistoryError as error:
        return element("p", f"{error.what}: {error.hint}", class_="warn")
    stat = record.diff(chain.git, before, chain.tip, "--stat=100", without=chain.protocol)
    whole = record.diff(chain.git, before, chain.tip, without=chain.protocol)
    lines = whole.decode("utf-8", "replace").split("\n")[:-1]
    more = len(lines) - DIFF_LINES
    shown = [element("span", line, **_kind(line)) for line in lines[:DIFF_LINES]]
    command = f"git diff {before[:12]} {chain.tip[:12]} -- ':!{paths.folder(chain.protocol)}'"
    return element(
        "div",
        element("p", "Without the protocol's own folder: ", _code(command), class_="dim"),
        _block(stat) if stat else element("p", "Nothing outside the folder."),
        element("pre", shown) if shown else None,
        element("p", f"{more:,} more lines are not shown; the command shows all.", class_="bad") if more > 0 else None,
    )


def _kind(line: str) -> dict[str, str]:
    named = {"+": "add", "-": "del", "@": "dim", "d": "head"}.get(line[:1])
    return {"class_": named} if named else {}


def _before(chain: Timeline, row: Row) -> str:
    """Return the commit that the protocol's work is compared with: where it left the base, as `runner diff` has it.

    Raises:
        InsufficientHistoryError: that is not here.
    """
    start = chain.entries[0].fields.get("start") if chain.entries else None
    begun = chain.git.resolve(start) if isinstance(start, str) else None
    base, remote = str(row.get("base", "")), chain.session.project.trusted.remote
    common = record.left_base(chain.git, chain.tip, base, remote) if chain.tips else None
    found = begun if common in (None, chain.tip) else common
    if found is None or not chain.tips:
        raise InsufficientHistoryError("its own commits are not here", chain.protocol, chain.fetch)
    return found


# What a reader could not see, or what would change what they see: shown as escapes.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
_TAG = re.compile("[a-z][a-z0-9]*")


class Html(str):
    """Markup: what `element`, `text` and `page` made."""

    __slots__ = ()


Part = str | Html | None


def text(value: str) -> Html:
    """Return a text as markup that shows it; what could not be seen is shown as an escape such as `\\u202e`."""
    seen = _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), value.replace("\r\n", "\n"))
    return Html(html.escape(seen, quote=True))


def element(tag: str, *inside: Part | Iterable[Part], **attributes: str) -> Html:
    """Return an element with parts inside; a part that is no markup is text. `class_` is the attribute `class`.

    Attributes are the caller's constants: never a link, and no style.
    """
    assert _TAG.fullmatch(tag) and not attributes.keys() & {"style", "src", "srcdoc"}
    told = "".join(f' {name.rstrip("_").replace("_", "-")}="{text(value)}"' for name, value in attributes.items())
    parts: list[str] = []
    for one in inside:
        for part in (one,) if one is None or isinstance(one, str) else one:
            parts += [] if part is None else [part if isinstance(part, Html) else text(part)]
    return Html(f"<{tag}{told}>{''.join(parts)}</{tag}>")


def document(title: str, style: str, *inside: Part, generator: str) -> bytes:
    """Return a whole page of its own, in UTF-8. `style`: a style sheet of ours."""
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = (
        '<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="generator" content="{text(generator)}">\n'
        f"{element('title', title)}\n<style>{style}</style>"
    )
    body = "\n".join(part if isinstance(part, Html) else text(part) for part in inside if part is not None)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'.encode()


BEGINS: Final = b'{"_type": "https://in-toto.io/Statement/v1"'  # each line
PREDICATE: Final = "https://slsa.dev/provenance/v1"
TYPE: Final = "urn:protocol-runner:step:v1"
Resource = dict[str, Any]


def attest(session: Session, protocol: str) -> bytes:
    """Return the statements, a line each, in the order of the steps.

    Raises:
        UsageError: the library is not installed.
    """
    try:
        from google.protobuf import json_format
        from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
        from in_toto_attestation.v1 import statement, statement_pb2
    except ImportError as error:
        raise UsageError("in-toto-attestation is not installed", "runner audit --attest", installs("attest")) from error
    chain = Timeline(session, protocol)
    lines = []
    for slug, step in record.open_steps(chain.row):
        told = _Step(chain, slug, count(step.get("attempt")) or 1) if step["status"] == "completed" else None
        if told is None or told.finished is None:
            continue
        predicate = told.predicate(str(step.get("kind")))
        json_format.ParseDict(predicate, provenance_pb2.Provenance())  # what is none is a bug of ours
        form = {"_type": statement.STATEMENT_TYPE_URI, "subject": told.subject(), "predicateType": PREDICATE}
        made = statement.Statement.copy_from_pb(
            json_format.ParseDict({**form, "predicate": predicate}, statement_pb2.Statement())
        )
        made.validate()
        lines.append(json.dumps({**form, "predicate": predicate}, sort_keys=True) + "\n")
    return "".join(lines).encode()


class _Step:
    """A completed attempt of a step, as statements name it."""

    def __init__(self, chain: Timeline, slug: str, attempt: int) -> None:
        self.chain, self.slug, self.attempt = chain, slug, attempt
        self.events = chain.of(slug, attempt)
        self.finished: RawEntry | None = next(
            (one for one in reversed(self.events) if one.event == "step-finished"), None
        )

    def subject(self) -> list[Resource]:
        """Return the products: the commit that has the work, and each artifact."""
        assert self.finished is not None
        commit = self.chain.commit_of(self.finished.revision)
        found = [{"name": f"{self.chain.protocol}/{self.slug}.{self.attempt}", "digest": {"gitCommit": commit}}]
        artifacts = self.finished.fields.get("artifacts")
        for one in artifacts if isinstance(artifacts, list) else ():
            if isinstance(one, dict):
                found.append({"name": str(one.get("path")), "digest": _digest(one.get("digest"))})
        return found

    def predicate(self, kind: str) -> Resource:
        """Return the provenance: from what, by whom, and what came beside it."""
        assert self.finished is not None
        fields, protocol = self.finished.fields, self.chain.protocol
        commit = self.chain.git.commit(self.chain.commit_of(self.finished.revision))
        trailers = log.parse_message(commit.message) if commit is not None else None
        file, _ = record.step_file(self.chain.git, protocol, self.chain.tip, self.slug)
        needed: list[Resource] = [{"name": "start", "digest": {"gitCommit": str(fields.get("start"))}}]
        needed.append({"name": f"{paths.folder(protocol)}/{file}", "digest": _digest(fields.get("digest"))})
        needed += [{"name": "trusted", "digest": {"gitCommit": trailers.trusted}}] if trailers is not None else []
        needed += self._statements()
        inside = {key: str(fields[key]) for key in ("engine", "executor") if fields.get(key)}
        return {
            "buildDefinition": {
                "buildType": TYPE,
                "externalParameters": {"protocol": protocol, "step": self.slug, "attempt": self.attempt, "kind": kind},
                **({"internalParameters": inside} if inside else {}),
                "resolvedDependencies": needed,
            },
            "runDetails": {
                "builder": {"id": f"urn:protocol-runner:{fields.get('executor')}"},
                "metadata": {"invocationId": f"{protocol}@{self.finished.revision}", "finishedOn": self.finished.time},
                "byproducts": list(self._beside()),
            },
        }

    def _statements(self) -> Iterator[Resource]:
        """Yield the signed statements that were counted for the step."""
        for entry in self.events:
            named = entry.fields.get("approvals")
            for name in named if isinstance(named, list) else ():
                path = f"{paths.folder(self.chain.protocol)}/{paths.APPROVALS}{name}{SUFFIX}"
                data = self.chain.git.blob(f"{self.chain.tip}:{path}")
                if data is not None:
                    yield {"name": path, "digest": {"sha256": sha256(data).hexdigest()}}

    def _beside(self) -> Iterator[Resource]:
        """Yield transcript, QA's report and what its checks said."""
        name = history.transcript_name(self.slug, self.attempt)
        digest = self.chain.transcript(self.slug, self.attempt)
        if digest is not None:
            yield {"name": name, "digest": _digest(digest), "mediaType": "application/jsonl"}
        for entry in self.events:
            if entry.event == "qa-passed" and entry.fields.get("report"):
                path = f"{paths.folder(self.chain.protocol)}/{paths.report_file(self.slug, self.attempt)}"
                yield {"name": path, "digest": _digest(entry.fields["report"]), "mediaType": "text/markdown"}
        for check in self.chain.checks(self.slug, self.attempt):
            yield {
                "name": f"check: {check['check']}",
                "annotations": {"exitCode": check["code"], "time": check["time"]},
            }


def _digest(told: object) -> Resource:
    kind, _, value = str(told).partition(":")
    return {kind: value}
