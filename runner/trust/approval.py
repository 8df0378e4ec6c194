"""Whether a word that waits was given: approvals in the branch, judged one by one (design §4).

A word is a file below `approvals/` whose statement is signed. The statement alone decides; the commit that brought it says only
when in the chain it came. `judge` is asked live, with the present time, and by `verify` again for each event that used a word,
with the time of that event. What makes a word count is checked in the order of `_CHECKS`, and the first that fails is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runner.protocol import approval_file, paths
from runner.protocol.approval_file import Decision, Signed
from runner.protocol.events import ReviewFields
from runner.protocol.plans import Plan
from runner.protocol.strict_yaml import shown
from runner.trust import manifest
from runner.trust.bench import Asked, Bench, Fault, Word
from runner.trust.demand import Demand
from runner.trust.manifest import Subject
from runner.trust.past import commit_of
from runner.values import dataclass

AHEAD = 300  # seconds that a statement may have been issued after the present time: clocks differ


@dataclass(frozen=True, slots=True)
class _How:
    """How freshness is judged: as `judge` says."""

    begun: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Review:
    """A review on the forge as far as git can judge it. `approver`: whose account it is, by the policy; else empty."""

    fields: ReviewFields
    approver: str
    fault: Fault | None = None
    text: str = ""  # why it does not count


@dataclass(frozen=True, slots=True)
class Standing:
    """How a demand stands. `digest`: what a word has to name now; `counted`: approvals that count, one a person.

    `rejected`: standing rejections of people whose word counts; `refused`: words on this subject that do not count, and why;
    `reviews`: those on the forge that were asked about, one a person where they count.
    """

    demand: Demand
    digest: str
    counted: tuple[Word, ...]
    rejected: tuple[Word, ...]
    refused: tuple[Word, ...]
    reviews: tuple[Review, ...] = ()

    @property
    def satisfied(self) -> bool:
        """Whether everybody whose word is needed gave it, and nobody rejected it."""
        return not self.rejected and not self.missing

    @property
    def missing(self) -> str:
        """What is still needed, as people read it; empty where nothing is."""
        said = {word.approver for word in self.counted} | {one.approver for one in self.reviews if one.fault is None}
        for need in self.demand.needs:
            have = len(said & need.people)
            if have < need.count:
                return f"{need.who}, {have} so far" if need.count > 1 else need.who
        return ""


def judge(
    bench: Bench,
    demand: Demand,
    plan: Plan | None,
    used: Sequence[str] = (),
    reviews: Sequence[ReviewFields] = (),
    asked: Asked | None = None,
    *,
    begun: bool = False,
    whole: bool = False,
) -> Standing:
    """Return how a demand stands at the tip of the bench.

    `plan`: as it stands there; `used`: ids of words that were used up by another call; `reviews`: what the forge told, of which
    git can judge whose they are and what they are about; `asked`: when it was asked for, without which no review counts; `begun`:
    what it is about began on these words, and its own work stands in the tree by now; `whole`: a later step brought it back, so later
    steps' files count too.
    """
    how = _How(begun=begun, whole=whole)
    now = "" if begun else bench.digest(demand.subject, bench.tip, plan)
    good: dict[str, Word] = {}
    refused: list[Word] = []
    for word in bench.words():
        if word.signed is None:
            continue
        said = word.signed.statement
        if (said.subject, said.attempt) != (str(demand.subject), demand.subject.attempt):
            continue
        if word.id in used:
            judged = word.faulty(Fault.USED, "it was used before, and counts once")
        else:
            judged = _judge(bench, demand, plan, word, how)
        if judged.fault is None:
            good[said.approver] = judged  # the last one in the chain stands
        else:
            refused.append(judged)
    standing = sorted(good.values(), key=lambda word: word.order)
    approved = [word for word in standing if _decision(word) is Decision.APPROVE]
    rejected = [word for word in standing if _decision(word) is Decision.REJECT]
    counted = _distinct(approved)
    people = {word.approver for word in counted}
    heard: list[Review] = []
    for fields in reviews:
        one = _judge_review(bench, demand, plan, fields, asked, how)
        if one.fault is None and one.approver in people:
            continue  # one person's word counts once
        people |= {one.approver} if one.fault is None else set()
        heard.append(one)
    return Standing(demand, now, tuple(counted), tuple(rejected), tuple(refused), tuple(heard))


def _judge_review(
    bench: Bench, demand: Demand, plan: Plan | None, fields: ReviewFields, asked: Asked | None, how: _How
) -> Review:
    """Return what git can tell of a review: whose it is, that it is of what stands there now, and that they wrote none of it."""
    policy = bench.authority.policy
    people = policy.words.forge.get(fields["host"], {}) if policy else {}
    who = next((one for one, number in people.items() if number == fields["user"]), "")
    where, subject, seen = bench.authority.where, demand.subject, fields["commit"]

    def faulty(fault: Fault, text: str) -> Review:
        return Review(fields, who, fault, text)

    if not demand.reviews:
        return faulty(Fault.UNTRUSTED, f"no review counts here, by {where}")
    if not who:
        return faulty(Fault.UNTRUSTED, f"account {fields['user']} of {fields['host']} is not in `forge:` of {where}")
    if who in bench.authority.agents:
        return faulty(Fault.AGENT, f"{who} is a runner or an agent")
    if not any(who in need.people for need in demand.needs):
        return faulty(Fault.ROLE, f"{who} is not {demand.who}")
    if asked is None or asked.commit not in bench.chain or seen not in bench.chain:
        return faulty(Fault.OTHER, f"what was reviewed, {seen[:12]}, is no commit of the branch")
    if bench.chain[seen] > bench.chain[asked.commit]:
        return faulty(Fault.STALE, f"it is of {seen[:12]}, before it was asked for")
    version = bench.version_of(asked.digest, subject, seen, plan) if asked.digest is not None else None
    touched = _touched(bench, subject, seen, plan, version, how)
    if touched is not None:
        return faulty(Fault.STALE, f"{shown(touched[1])} was changed since, by {touched[0][:12]}")
    if asked.digest is not None:
        if version is None:
            return faulty(Fault.STALE, "what was asked about has another digest by now")
        if _differs_now(bench, subject, seen, plan, asked.digest, version, how):
            return faulty(Fault.STALE, "what stands there now is not what was asked about")
    if bench.authority.own_work != "allow":
        for commit in bench.authors(subject):
            if who in {email.casefold() for email in commit.emails}:
                return faulty(Fault.OWN_WORK, f"{who} wrote what it approves, in {commit.oid[:12]}")
            if bench.authority.own_work == "signed" and not bench.authority.vouches_for(bench.git, commit, bench.at):
                return faulty(
                    Fault.OWN_WORK, f"{commit.oid[:12]} wrote what it approves and is not signed by a listed key"
                )
    return Review(fields, who)


def foresee(bench: Bench, demand: Demand, plan: Plan | None, signed: Signed, fingerprint: str) -> Word:
    """Return a word that is about to be given, with what would keep it from counting."""
    word = Word(signed.id, "", bench.tip, len(bench.words()), signed, fingerprint)
    for check in (_is_of_this, _is_timely, _is_in_role, _is_fresh, _is_of_others):
        told = check(bench, demand, plan, word, _How())
        if told is not None and told.fault is not None:
            return told
    return word


def _distinct(words: Sequence[Word]) -> list[Word]:
    """Return the words of distinct people with distinct keys."""
    found: list[Word] = []
    for word in words:
        if all((word.approver != other.approver and word.fingerprint != other.fingerprint) for other in found):
            found.append(word)
    return found


def _decision(word: Word) -> Decision:
    assert word.signed is not None
    return word.signed.statement.decision


def _judge(bench: Bench, demand: Demand, plan: Plan | None, word: Word, how: _How) -> Word:
    """Return the word with what is wrong with it, if anything is."""
    for check in _CHECKS:
        told = check(bench, demand, plan, word, how)
        if isinstance(told, Word):
            word = told
            if word.fault is not None:
                return word
    return word


def _is_placed(bench: Bench, demand: Demand, plan: Plan | None, word: Word, how: _How) -> Word | None:
    """It came by a commit of the chain that adds approvals and changes nothing else, after what the person saw."""
    assert word.signed is not None
    folder = f"{paths.folder(bench.protocol)}/{paths.APPROVALS}"
    if bench.words_in is not None:
        return None
    if word.commit not in bench.chain:
        return word.faulty(Fault.MISPLACED, "no commit of the branch added it alone and for the first time")
    commit = commit_of(bench.git, word.commit)
    changed = bench.git.changed(commit.parents[0], commit.oid) if commit.parents else {}
    for path, (before, _) in changed.items():
        if not path.startswith(folder) or before is not None:
            return word.faulty(
                Fault.MISPLACED, f"the commit that added it, {commit.oid[:12]}, changes {shown(path)} too"
            )
    seen = word.signed.statement.seen
    if seen not in bench.chain:  # no word can name a commit that comes after its own
        return word.faulty(Fault.OTHER, f"what was seen, {seen[:12]}, is no commit of the branch before it")
    return None


def _is_of_this(bench: Bench, demand: Demand, plan: Plan | None, word: Word, how: _How) -> Word | None:
    """It speaks of this repository, this protocol, and this life of it."""
    assert word.signed is not None
    said = word.signed.statement
    for name, told, right in (
        ("repository", said.repo, bench.authority.repo),
        ("protocol", said.protocol, bench.protocol),
        ("genesis", said.genesis, bench.state.genesis),
    ):
        if told != right:
            return word.faulty(Fault.OTHER, f"it is about another {name}: {told}")
    return None


def _is_timely(bench: Bench, demand: Demand, plan: Plan | None, word: Word, how: _How) -> Word | None:
    assert word.signed is not None
    said = word.signed.statement
    if said.issued_at > bench.at + AHEAD:
        return word.faulty(Fault.FUTURE, f"it is issued in the future: {said.issued}")
    if said.expires_at <= bench.at:
        return word.faulty(Fault.EXPIRED, f"it expired at {said.expires}")
    if said.expires_at - said.issued_at > demand.lasts:
        return word.faulty(
            Fault.EXPIRED, f"it would last longer than {demand.lasts // 3600} h, which policy.yaml allows"
        )
    return None


def _is_signed(bench: Bench, demand: Demand, plan: Plan | None, word: Word, how: _How) -> Word | None:
    from runner.trust import signature
    from runner.trust.signature import Outcome

    assert word.signed is not None
    verdict = signature.verify(
        word.signed.signature,
        word.signed.text,
        namespace=approval_file.NAMESPACE,
        principal=word.approver,
        signers=bench.authority.signers,
        at=bench.at,
        vouched=bench.vouched,
    )
    if verdict.ok:
        return Word(word.id, word.path, word.commit, word.order, word.signed, verdict.fingerprint)
    fault = {
        Outcome.MALFORMED: Fault.BAD,
        Outcome.BAD: Fault.BAD,
        Outcome.REVOKED: Fault.REVOKED_KEY,
    }.get(verdict.outcome, Fault.UNTRUSTED)
    return word.faulty(fault, verdict.reason)


def _is_in_role(bench: Bench, demand: Demand, plan: Plan | None, word: Word, how: _How) -> Word | None:
    if not demand.signed:
        return word.faulty(Fault.UNTRUSTED, f"reviews count here, and no signed words, by {bench.authority.where}")
    if word.approver in bench.authority.agents:
        return word.faulty(Fault.AGENT, f"{word.approver} is a runner or an agent")
    if not any(word.approver in need.people for need in demand.needs):
        return word.faulty(Fault.ROLE, f"{word.approver} is not {demand.who}")
    return None


def _is_fresh(bench: Bench, demand: Demand, plan: Plan | None, word: Word, how: _How) -> Word | None:
    """It names what stands there now, and nothing touched that since it was seen, even if the bytes came back.

    Its digest tells which version of the manifest that is; the rules are those of the version.
    """
    assert word.signed is not None
    said, subject = word.signed.statement, demand.subject
    if said.seen not in bench.chain:
        return None  # `_is_seen` tells it
    version = bench.version_of(said.digest, subject, said.seen, plan)
    touched = _touched(bench, subject, said.seen, plan, version, how)
    if touched is not None:
        oid, path = touched
        commit = commit_of(bench.git, oid)
        line = commit.message.split(b"\n", 1)[0].decode("utf-8", "replace")[:60]
        return word.faulty(Fault.STALE, f"{shown(path)} was changed since, by {oid[:12]} ({ascii(line)[1:-1]})")
    if version is None:
        return word.faulty(Fault.STALE, "it names another digest than what was seen has, by the trusted branch of now")
    if version < manifest.VERSION and said.issued_at >= manifest.OLD_UNTIL:
        return word.faulty(
            Fault.OTHER, f"it names a manifest of version {version}, which was given up before it was issued"
        )
    if _differs_now(bench, subject, said.seen, plan, said.digest, version, how):
        return word.faulty(Fault.STALE, "it names another digest than what stands there now")
    return None


def _touched(
    bench: Bench, subject: Subject, seen: str, plan: Plan | None, version: int | None, how: _How
) -> tuple[str, str] | None:
    """Return what touched a subject since it was seen, by the rules of a manifest's version: the newest where none is known."""
    known = version or manifest.VERSION
    return bench.touched_since(subject, seen, plan, version=known, by_people=how.begun, whole=how.whole)


def _differs_now(
    bench: Bench, subject: Subject, seen: str, plan: Plan | None, digest: str, version: int, how: _How
) -> bool:
    """Return whether what stands there now has another digest; asked where nothing has touched it.

    A plan loses the steps that are done. Work that has begun is no change, nor is the base's where the policy says so.
    """
    if how.begun or subject.kind == "plan":
        return False
    if version > 1 and bench.kept_base(subject, seen, plan):
        return False
    return digest != bench.digest_at(subject, bench.tip, plan, version)


def _is_of_others(bench: Bench, demand: Demand, plan: Plan | None, word: Word, how: _How) -> Word | None:
    """Whoever approves wrote none of it: as author, committer or by the signature's key."""
    rule = bench.authority.own_work
    if rule == "allow" or _decision(word) is not Decision.APPROVE:
        return None
    for commit in bench.authors(demand.subject):
        who = {email.casefold() for email in commit.emails}
        key = bench.authority.signing_key(bench.git, commit)
        if word.approver in who or (key and key == word.fingerprint):
            return word.faulty(Fault.OWN_WORK, f"{word.approver} wrote what it approves, in {commit.oid[:12]}")
        if rule == "signed" and not bench.authority.vouches_for(bench.git, commit, bench.at):
            return word.faulty(
                Fault.OWN_WORK, f"{commit.oid[:12]} wrote what it approves and is not signed by a listed key"
            )
    return None


def _is_seen(bench: Bench, demand: Demand, plan: Plan | None, word: Word, how: _How) -> Word | None:
    """Last, for else it is sound: what it is about can be looked at."""
    assert word.signed is not None
    if word.signed.statement.seen in bench.chain:
        return None
    return word.faulty(Fault.UNSEEN, f"what was seen, {word.signed.statement.seen[:12]}, is not in this clone")


_CHECKS: tuple[Callable[[Bench, Demand, Plan | None, Word, _How], Word | None], ...] = (
    _is_placed,
    _is_of_this,
    _is_timely,
    _is_signed,
    _is_in_role,
    _is_fresh,
    _is_of_others,
    _is_seen,
)
