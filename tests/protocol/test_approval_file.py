"""The grammar of an approval: what is written is read, and nothing else is."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner.protocol import approval_file
from runner.protocol.approval_file import Decision, Form, MalformedStatementError, Rule, Statement
from runner.protocol.ids import is_protocol_id

SAID = Statement(
    repo="6f0c" * 8,
    protocol="0007-rate-limit",
    genesis="sha256:" + "a" * 64,
    subject="step:deploy",
    attempt=0,
    digest="sha256:" + "b" * 64,
    policy="sha256:" + "c" * 64,
    seen="d" * 40,
    decision=Decision.APPROVE,
    approver="alice@example.test",
    issued="2026-11-20T06:50:11Z",
    expires="2026-11-27T06:50:11Z",
    nonce="e" * 32,
    reason="looked at it twice",
)
TEXT = approval_file.render(SAID)
SSH = b"-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\nAAAA==\n-----END SSH SIGNATURE-----\n"
PGP = b"-----BEGIN PGP SIGNATURE-----\n\niHUEABYIAB0\n=njUN\n-----END PGP SIGNATURE-----\n"
FILE = TEXT + SSH


def hexes(count: int) -> st.SearchStrategy[str]:
    return st.text("0123456789abcdef", min_size=count, max_size=count)


digests = hexes(64).map("sha256:{}".format)
slugs = st.from_regex(r"[a-z0-9]{1,20}(-[a-z0-9]{1,18}){0,2}", fullmatch=True)
subjects = st.one_of(
    st.sampled_from(["plan", "merge"]).map(lambda kind: (kind, 0)),
    slugs.map(lambda slug: (f"step:{slug}", 0)),
    st.tuples(st.sampled_from(["result", "protected-path"]), slugs, st.integers(1, 999_999)).map(
        lambda parts: (f"{parts[0]}:{parts[1]}", parts[2])
    ),
    st.tuples(slugs, st.integers(1, 999), st.integers(1, 999)).map(
        lambda parts: (f"call:{parts[0]}.{parts[1]}.{parts[2]}", parts[1])
    ),
)


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    subject, attempt = draw(subjects)
    day = draw(st.integers(1, 27))
    return Statement(
        repo=draw(hexes(32)),
        protocol=draw(
            st.from_regex(r"[0-9]{4,9}-[a-z0-9]{1,20}(-[a-z0-9]{1,9})?", fullmatch=True).filter(is_protocol_id)
        ),
        genesis=draw(digests),
        subject=subject,
        attempt=attempt,
        digest=draw(digests),
        policy=draw(digests),
        seen=draw(st.one_of(hexes(40), hexes(64))),
        decision=draw(st.sampled_from(Decision)),
        approver=draw(st.from_regex(approval_file.PRINCIPAL, fullmatch=True).filter(str.isascii)),
        issued=f"2026-02-{day:02d}T06:50:11Z",
        expires=f"2026-02-{day + 1:02d}T06:50:11Z",
        nonce=draw(hexes(32)),
        reason=draw(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=500)),
    )


@given(statements(), st.sampled_from([SSH, PGP]))
def test_what_is_written_is_read(said: Statement, signature: bytes) -> None:
    text = approval_file.render(said)

    found = approval_file.parse(approval_file.join(text, signature), "f")

    assert (found.statement, found.text, found.signature) == (said, text, signature)
    assert approval_file.read(text, "f") == said
    assert found.form is (Form.SSH if signature == SSH else Form.OPENPGP)
    assert found.id == hashlib.sha256(text).hexdigest()[:32]
    approval_file.check_name(found, f"{found.id}.approval", "f")


def test_the_bytes_are_those_of_the_design() -> None:
    names = [line.split(": ")[0] for line in TEXT.decode().splitlines()[1:]]
    assert TEXT.startswith(b"runner-approval/v1\nrepo: 6f0c")
    assert names == [*Statement._fields]
    assert TEXT.endswith(b"\nreason: looked at it twice\n")


def test_what_a_subject_is_made_of() -> None:
    call = SAID._replace(subject="call:deploy-it.2.31", attempt=2, expires="2026-11-21T06:50:11Z")
    assert approval_file.read(approval_file.render(call), "f") == call
    assert (call.kind, call.slug, SAID.kind, SAID.slug) == ("call", "deploy-it", "step", "deploy")
    plan = SAID._replace(subject="plan")
    assert (plan.kind, plan.slug) == ("plan", "")
    assert SAID.expires_at - SAID.issued_at == 7 * 24 * 60 * 60


@given(st.data())
@example(None)
def test_any_bytes_are_refused_or_are_just_what_was_read(data: st.DataObject | None) -> None:
    changed = bytearray(FILE)
    if data is not None:
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(changed) - 1))
            end = at + data.draw(st.integers(0, 40))
            changed[at:end] = data.draw(st.one_of(st.binary(max_size=3), st.just(bytes(changed[at:end]) * 2)))
    try:
        found = approval_file.parse(bytes(changed), "f")
    except MalformedStatementError as error:
        assert error.what and error.where.startswith("f")
    else:
        assert found.text + found.signature == changed
        assert approval_file.render(found.statement) == found.text
        assert (found.statement == SAID) == (found.text == TEXT)


@given(st.binary(max_size=300))
def test_any_bytes_have_words_for_what_is_wrong(data: bytes) -> None:
    for prefix in (b"", b"runner-approval/v1\n", TEXT, FILE):
        if prefix + data not in (FILE,):
            try:
                approval_file.parse(prefix + data, "f")
            except MalformedStatementError:
                continue
            raise AssertionError(prefix + data)


def changed(old: bytes, new: bytes) -> bytes:
    assert FILE.count(old) >= 1
    return FILE.replace(old, new, 1)


LINE = b"nonce: " + b"e" * 32 + b"\n"
HOSTILE = {
    "empty": (b"", Rule.VERSION),
    "too long": (changed(b"AAAA==", b"AAAA\n" * 1700 + b"AAAA=="), Rule.SIZE),
    "carriage returns": (FILE.replace(b"\n", b"\r\n"), Rule.LINE_ENDS),
    "one carriage return": (changed(b"twice\n", b"twice\r\n"), Rule.LINE_ENDS),
    "byte order mark": (b"\xef\xbb\xbf" + FILE, Rule.ASCII),
    "not ascii": (changed(b"twice", "zweimal, für heute".encode()), Rule.ASCII),
    "homoglyph": (changed(b"alice@", "аlice@".encode()), Rule.ASCII),
    "tab": (changed(b"repo: ", b"repo:\t"), Rule.ASCII),
    "nul": (changed(b"twice", b"twice\0"), Rule.ASCII),
    "escape": (changed(b"twice", b"\x1b[2J"), Rule.ASCII),
    "leading line": (b"\n" + FILE, Rule.VERSION),
    "another version": (changed(b"/v1", b"/v2"), Rule.VERSION),
    "version with a space": (changed(b"/v1\n", b"/v1 \n"), Rule.VERSION),
    "missing field": (changed(LINE, b""), Rule.FIELDS),
    "duplicate field": (changed(LINE, LINE + LINE), Rule.FIELDS),
    "duplicate at the end": (changed(b"twice\n", b"twice\ndecision: approve\n"), Rule.SIGNATURE),
    "extra field": (changed(LINE, b"approved: yes\n" + LINE), Rule.FIELDS),
    "reordered": (changed(b"attempt: 0\n", b"").replace(b"digest: ", b"attempt: 0\ndigest: ", 1), None),
    "swapped": (changed(LINE, b"").replace(b"issued: ", LINE + b"issued: ", 1), Rule.FIELDS),
    "capital key": (changed(b"repo: ", b"Repo: "), Rule.FIELDS),
    "two spaces": (changed(b"repo: ", b"repo:  "), Rule.VALUE),
    "no space": (changed(b"repo: ", b"repo:"), Rule.FIELDS),
    "space before": (changed(b"repo: ", b" repo: "), Rule.FIELDS),
    "folded line": (changed(b"twice\n", b"twice\n and more\n"), Rule.SIGNATURE),
    "capital hex": (changed(b"6f0c", b"6F0c"), Rule.VALUE),
    "short digest": (changed(b"b" * 64, b"b" * 63), Rule.VALUE),
    "seen of 41 digits": (changed(b"d" * 40, b"d" * 41), Rule.VALUE),
    "no protocol": (changed(b"0007-rate-limit", b"0007-rate--limit"), Rule.VALUE),
    "out of the folder": (changed(b"0007-rate-limit", b"../0007-rate"), Rule.VALUE),
    "long slug": (changed(b"0007-rate-limit", b"0007-" + b"r" * 61), Rule.VALUE),
    "no subject": (changed(b"step:deploy", b"everything"), Rule.VALUE),
    "step by its file": (changed(b"step:deploy", b"step:02_deploy"), Rule.VALUE),
    "long step": (changed(b"step:deploy", b"step:" + b"d" * 61), Rule.VALUE),
    "plan with a step": (changed(b"step:deploy", b"plan:deploy"), Rule.VALUE),
    "call without a number": (changed(b"step:deploy", b"call:deploy.1"), Rule.VALUE),
    "call of attempt nought": (changed(b"step:deploy", b"call:deploy.0.1"), Rule.VALUE),
    "attempt of a step": (changed(b"attempt: 0", b"attempt: 1"), Rule.VALUE),
    "no attempt of a result": (changed(b"step:deploy", b"result:deploy"), Rule.VALUE),
    "attempt of another call": (changed(b"step:deploy\nattempt: 0", b"call:deploy.2.1\nattempt: 1"), Rule.VALUE),
    "leading zero": (changed(b"step:deploy\nattempt: 0", b"result:deploy\nattempt: 01"), Rule.VALUE),
    "another decision": (changed(b"decision: approve", b"decision: approved"), Rule.VALUE),
    "two decisions": (changed(b"decision: approve", b"decision: approve|reject"), Rule.VALUE),
    "capital approver": (changed(b"alice@", b"Alice@"), Rule.VALUE),
    "two approvers": (changed(b"alice@example.test", b"alice@example.test,bob@example.test"), Rule.VALUE),
    "pattern as approver": (changed(b"alice@", b"*@"), Rule.VALUE),
    "no zone": (changed(b"06:50:11Z\nexpires", b"06:50:11\nexpires"), Rule.VALUE),
    "zone": (changed(b"06:50:11Z\nexpires", b"06:50:11+01:00\nexpires"), Rule.VALUE),
    "no such day": (changed(b"2026-11-20T", b"2026-11-31T"), Rule.VALUE),
    "no such year": (changed(b"2026-11-20T", b"0000-11-20T"), Rule.VALUE),
    "leap second": (changed(b"06:50:11Z\nexpires", b"06:50:60Z\nexpires"), Rule.VALUE),
    "expired when issued": (changed(b"2026-11-27", b"2026-11-20"), Rule.LIFETIME),
    "too long a life": (changed(b"2026-11-27T06:50:11", b"2026-12-20T06:50:12"), Rule.LIFETIME),
    "too long a call": (
        changed(b"step:deploy\nattempt: 0", b"call:deploy.1.1\nattempt: 1").replace(b"-27T06:50:11", b"-21T06:50:12"),
        Rule.LIFETIME,
    ),
    "long reason": (changed(b"looked at it twice", b"x" * 501), Rule.VALUE),
    "no signature": (TEXT, Rule.SIGNATURE),
    "blank line before it": (TEXT + b"\n" + SSH, Rule.SIGNATURE),
    "another armour": (TEXT + SSH.replace(b"SSH SIGNATURE", b"RSA SIGNATURE"), Rule.SIGNATURE),
    "mixed armour": (TEXT + SSH.replace(b"END SSH", b"END PGP"), Rule.SIGNATURE),
    "armour with a header": (TEXT + PGP.replace(b"-----\n\n", b"-----\nComment: approve all\n\n"), Rule.SIGNATURE),
    "empty armour": (TEXT + SSH.replace(b"U1NIU0lH\nAAAA==\n", b""), Rule.SIGNATURE),
    "no last newline": (FILE[:-1], Rule.SIGNATURE),
    "trailing newline": (FILE + b"\n", Rule.TRAILING),
    "trailing words": (FILE + b"approved by all\n", Rule.TRAILING),
    "second signature": (FILE + SSH, Rule.TRAILING),
    "second statement": (FILE + FILE, Rule.TRAILING),
    "signature in the reason": (changed(b"twice\n", b"twice\n" + SSH.decode().encode()), Rule.TRAILING),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_for_what_it_is(name: str) -> None:
    data, rule = HOSTILE[name]
    if rule is None:  # the change took nothing away: the control of this table
        assert approval_file.parse(data, "f").statement == SAID
        return
    with pytest.raises(MalformedStatementError) as caught:
        approval_file.parse(data, "f")
    assert caught.value.rule is rule, caught.value


def test_thirty_days_and_a_day_are_allowed() -> None:
    approval_file.parse(changed(b"2026-11-27T06:50:11", b"2026-12-20T06:50:11"), "f")
    call = changed(b"step:deploy\nattempt: 0", b"call:deploy.1.1\nattempt: 1")
    approval_file.parse(call.replace(b"-27T06:50:11", b"-21T06:50:11"), "f")


def test_the_line_is_named() -> None:
    with pytest.raises(MalformedStatementError) as caught:
        approval_file.parse(changed(b"d" * 40, b"main"), "a.approval")
    assert caught.value.where == "a.approval:9"


def test_a_file_under_another_name_is_refused() -> None:
    found = approval_file.parse(FILE, "f")
    for name in (f"{found.id}.txt", f"{'0' * 32}.approval", f"../{found.id}.approval", f"{found.id.upper()}.approval"):
        with pytest.raises(MalformedStatementError) as caught:
            approval_file.check_name(found, name, "f")
        assert caught.value.rule is Rule.NAME


@pytest.mark.parametrize(
    "change",
    [{"reason": "a\nb"}, {"reason": "ä"}, {"reason": "x\ud800"}, {"attempt": -1}, {"approver": ""}, {"seen": "HEAD"}],
)
def test_what_the_format_has_not_is_not_written(change: dict[str, object]) -> None:
    with pytest.raises(MalformedStatementError):
        approval_file.render(SAID._replace(**change))  # type: ignore[arg-type]


def test_a_statement_is_no_file_and_a_file_no_statement() -> None:
    with pytest.raises(MalformedStatementError):
        approval_file.read(FILE, "f")
    with pytest.raises(MalformedStatementError):
        approval_file.join(TEXT, SSH + SSH)
