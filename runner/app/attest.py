"""`audit --attest`: the products of a protocol's steps, as in-toto statements with SLSA provenance, one per completed step.

They repeat the record in a common form, and are as trustworthy as it: the caller prints none of a record that does not verify.
Nothing is signed here; a person who publishes them wraps and signs them with their own tool.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final

from runner.app.chain import Chain, count
from runner.errors import UsageError, installs
from runner.protocol import log, paths
from runner.protocol.approval_file import SUFFIX
from runner.protocol.log import RawEntry
from runner.store import history, record
from runner.store.project import Project

BEGINS: Final = b'{"_type": "https://in-toto.io/Statement/v1"'  # each line
PREDICATE: Final = "https://slsa.dev/provenance/v1"
TYPE: Final = "urn:protocol-runner:step:v1"
Resource = dict[str, Any]


def attest(project: Project, protocol: str) -> bytes:
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
    chain = Chain(project, protocol)
    lines = []
    for slug, step in record.open_steps(dict(chain.row)):
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

    def __init__(self, chain: Chain, slug: str, attempt: int) -> None:
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
        needed += self._words()
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

    def _words(self) -> Iterator[Resource]:
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
