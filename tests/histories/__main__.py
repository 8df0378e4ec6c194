"""`make histories`: make what is listed and not stored yet, and store it; then read what was added to the manifest.

Listed are the attacks on a chain, the abuses of a word (before and after an event uses it) and what `made` makes. A case is made the
same, commit for commit, each time. What is stored is never made anew: another history wants another name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from runner.errors import InsufficientHistoryError
from tests.attacks.make import PROTOCOL, History
from tests.attacks.test_attacks import ALSO, ATTACKS
from tests.attacks.words import CASES, use_of
from tests.histories import stored
from tests.histories.made import HISTORIES, Desk, Made
from tests.histories.stored import DIGESTS, HERE, MANIFEST, Case, Shelf, cases, git

Lazy = Callable[[Desk], Made]


def listed() -> dict[str, Lazy]:
    """Return what makes each case, by the case's name."""
    found: dict[str, Lazy] = {f"attacks/{name}": _attack(name) for name in ATTACKS}
    for name in CASES:
        found[f"words/{name}"] = _word(name, forged=False)
        found[f"words/{name}/used"] = _word(name, forged=True)
    return found | HISTORIES


def _attack(name: str) -> Lazy:
    function, rule = ATTACKS[name]

    def make(desk: Desk) -> Made:
        forge = desk.forge()
        function(forge)
        rules = (rule, *ALSO.get(name, ()))
        refs = {"tip": forge.tip, "trust": forge.trusted}  # what it names as that is here, and nobody says that it is
        return Made(path=forge.box.path, protocol=forge.protocol, refs=refs, rules=rules)

    return make


def _word(name: str, *, forged: bool) -> Lazy:
    def make(desk: Desk) -> Made:
        made, case = History(desk.place(), desk.keys), CASES[name]
        branch, forged_tip, use = use_of(made, name)
        more = made.git("for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads").split()
        refs = {
            **dict(zip(more[::2], more[1::2], strict=True)),  # what an attacker pushed besides
            "tip": forged_tip if forged else branch,
            "main": made.main,
        }
        rules = case.rules if forged else case.plain
        return Made(
            path=made.path,
            protocol=PROTOCOL,
            refs=refs,
            rules=rules,
            wait="" if forged else use.wait,
            says="" if forged else case.says,
        )

    return make


def keep(shelf: Shelf, name: str, bundle: str, made: Made) -> Case:
    """Take a history onto the shelf and return its case, whose verdict is what was meant.

    Raises:
        AssertionError: it is not.
    """
    kind = git("rev-parse", "--show-object-format", at=made.path)
    bundle = f"{bundle}-{kind}" if kind != "sha1" else bundle
    for ref, oid in made.refs.items():
        git("update-ref", f"refs/cases/{name}/{ref}", oid, at=made.path)
    at = shelf.add(bundle, kind, str(made.path))
    for ref in made.refs:  # not again with the next case of the same place
        git("update-ref", "-d", f"refs/cases/{name}/{ref}", at=made.path)
        assert git("rev-parse", f"refs/cases/{name}/{ref}", at=at) == made.refs[ref]
    case = Case(
        name=name,
        bundle=bundle,
        protocol=made.protocol,
        verdict=(),
        second=0,
        wait=made.wait,
        whole=made.whole,
        seen=made.seen,
        job=made.job,
    )
    verdict, transitions = shelf.verdict(case)
    case = dataclasses.replace(case, verdict=verdict, transitions=transitions)
    assert (verdict == (stored.CANNOT_TELL,)) == made.cannot_tell, (name, verdict)
    assert made.cannot_tell or case.rules == set(made.rules), (name, verdict)
    if "tip" in made.refs:
        code, why = _second(shelf, case)
        case = dataclasses.replace(case, second=code, unjudged="not judged" in why)
    case = dataclasses.replace(case, says=shelf.says(case) if case.wait else "")
    assert case.says == made.says, (name, case.says)
    return case


def _second(shelf: Shelf, case: Case) -> tuple[int, str]:
    """Return what the second verifier says of the chain, having compared it with what ours says of the chain alone."""
    from runner.trust import verify

    tip = shelf.ref(case, "tip")
    assert tip is not None
    try:
        ours = 0 if verify.verify(shelf.objects(case), case.protocol, tip).ok else 4
    except InsufficientHistoryError:
        ours = 5
    code, why = shelf.second(case)
    assert code == ours or "not judged" in why, (case.name, ours, why)
    return code, why


def make(names: list[str], folder: Path) -> Iterator[Case]:
    """Make and store cases, in one new bundle for each kind of object ids."""
    number = f"{1 + max((int(file.stem[:4]) for file in HERE.glob('*.bundle')), default=0):04d}"
    shelf, desk = Shelf(folder, bundles=folder / "none"), Desk(folder / "desk")
    everything, kinds = listed(), set()
    try:
        for name in names:
            print(name, file=sys.stderr, flush=True)
            case = keep(shelf, name, number, everything[name](desk))
            kinds.add(case.bundle)
            yield case
        for bundle in sorted(kinds):
            at, file = folder / f"{'sha256' if bundle.endswith('-sha256') else 'sha1'}.git", HERE / f"{bundle}.bundle"
            git("-c", "pack.threads=1", "bundle", "create", "-q", file, "--all", at=at)
            with DIGESTS.open("a") as digests:
                digests.write(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n")
    finally:
        shelf.close()


def main(names: list[str]) -> None:
    """Store what is listed and not stored yet; of `names` alone, where some are given."""
    new = [name for name in listed() if name not in cases() and (not names or name in names)]
    folder = Path(tempfile.mkdtemp())
    try:
        made = list(make(new, folder))
        with MANIFEST.open("a") as file:
            file.writelines(case.line() for case in made)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(made)} new; read what was added to {MANIFEST.name}, and commit it with its bundle")


if __name__ == "__main__":
    main(sys.argv[1:])
