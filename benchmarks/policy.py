"""What a policy of 200 rules costs a call, against 200 of Python's own `fnmatch` on the same path. Nothing matches: the worst case."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from benchmarks.ground import Ground
from benchmarks.measure import Figure, Spread, in_turns, within
from runner.protocol import policy_file
from runner.trust import policy

RULES = 200
CALLS = 50  # in one act: a single call is too short to be timed
PATH = "src/package/module/thing.py"
GOAL = 100e-6  # seconds
KINDS = {
    "a tool and a path": "deny: {{tool: write_file, path: 'area{0}/**/old_*.sql'}}",
    "a path in any folder": "deny: {{path: '**/*{0}_*.sql'}}",
    "a tool's pattern": "ask: {{tool: 'mcp:server{0}/*', effect: external}}",
}


def run(ground: Ground) -> Iterator[Figure]:
    """Measure one evaluation of each kind of policy."""
    patterns = [f"area{number}/*/old_*.sql" for number in range(RULES)]
    subject = policy.call("write_file", {"path": PATH})

    def bare() -> None:
        for _ in range(CALLS):
            for pattern in patterns:
                fnmatch.fnmatchcase(PATH, pattern)

    def evaluating(rule: str) -> policy.Policy:
        head = f"repo: {'0' * 32}\nroles: {{maintainer: [a@example.test]}}\nrules:\n"
        text = head + "".join(f"- {rule.format(number)}\n" for number in range(RULES))
        return policy.compiled(policy_file.parse(text.encode(), "policy.yaml"))

    def evaluate(ready: policy.Policy) -> None:
        for _ in range(CALLS):
            assert policy.evaluate(ready, subject).verdict == "allow"

    made = {name: evaluating(rule) for name, rule in KINDS.items()}
    acts = {name: (lambda ready=ready: evaluate(ready)) for name, ready in made.items()}
    found = in_turns(10 if ground.quick else 40, {"bare": bare, **acts})
    each = {name: Spread(tuple(time / CALLS for time in spread.times)) for name, spread in found.items()}
    yield Figure(f"policy: {RULES} fnmatch.fnmatchcase", each["bare"].text(), 1.0)
    for name in KINDS:
        yield within(f"policy: a call, {RULES} rules with {name}, against fnmatch", each[name], GOAL, each["bare"])
