"""The rules of `verify`, by their numbers and by the names that findings have: `docs/verify.md` has a line for each.

A rule of a commit is a function of (what the walk has seen, this commit), one of a protocol a function of (git, the report on its
chain, what lies beside it). It yields each violation, and changes neither repository nor record. A module holds one subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from runner.git import Git
from runner.trust.rules import ends, permissions, transcripts, transition
from runner.trust.walk import Evidence, Finding, ParsedCommit, Report, Said, Walk

Rule = Callable[[Walk, ParsedCommit], Said]
RuleBeside = Callable[[Git, Report, Evidence], Iterator[Finding]]

# What each commit of the chain is asked, in this order: number, name, rule.
OF_COMMIT: tuple[tuple[int, str, Rule], ...] = (
    (1, "paths", transition.check_paths),
    (2, "approvals", transition.check_approvals),
    (3, "genesis", transition.check_genesis),
    (4, "trailers", transition.check_trailers),
    (5, "record-changed", transition.check_record_changed),
    (6, "commit", transition.check_commit),
    (7, "message", transition.check_message),
    (8, "log", transition.check_log),
    (9, "record", transition.check_record),
    (10, "transition", transition.check_transition),
    (11, "legality", transition.check_legality),
    (12, "fold", transition.check_fold),
    (13, "repair", transition.check_repair),
    (14, "words", transition.check_words),
    (15, "work", transition.check_work),
    (16, "plan", transition.check_plan),
    (17, "digest", transition.check_digest),
    (18, "evidence", transition.check_evidence),
    (19, "undone", transition.check_undone),
    (20, "counted", permissions.check_counted),
    (21, "trusted", permissions.check_trusted),
    (22, "needed", permissions.check_needed),
    (23, "signed", permissions.check_signed),
    (29, "forked", ends.check_forked),
)

# What lies beside the chain, in this order. Two more rules are the caller's: 27, what its machine saw, and what a CI job hands over.
OF_PROTOCOL: tuple[tuple[int, str, RuleBeside], ...] = (
    (25, "base", ends.check_base),
    (24, "transcript", transcripts.check_transcripts),
    (22, "needed", transcripts.check_tool_calls),
    (29, "forked", ends.check_origins),
    (28, "merge", ends.check_merge),
    (26, "seal", ends.check_seal),
)
