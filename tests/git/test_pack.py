"""Packs of our own: git takes them as its own, whatever the objects, and finds each object in them as it was."""

from __future__ import annotations

import subprocess
import zlib
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.git import BLOB, Ident, TreeEntry
from runner.git.objects import TREE, commit_bytes, tree_bytes
from runner.git.pack import DEPTH, Pack, delta, listed
from runner.protocol.state import State, Status, Steps, StepState, StepStatus, render
from tests.simulation.memory_git import patched, unpacked

WHO = Ident("n", "n@example.test", 1)
FORMATS = ("sha1", "sha256")


def repository(path: Path, object_format: str) -> Path:
    subprocess.run(["git", "init", "-q", "--bare", f"--object-format={object_format}", str(path)], check=True)
    return path


def git(at: Path, *words: str, data: bytes = b"") -> bytes:
    done = subprocess.run(["git", *words], cwd=at, input=data, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


texts = st.one_of(
    st.binary(max_size=600),
    st.lists(
        st.sampled_from([b"a line of it\n", b"another, somewhat longer line\n", b"x", b"\0" * 400]), max_size=60
    ).map(b"".join),
)


@st.composite
def versions(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A text, and one that has some other bytes in some places of it."""
    old = draw(texts) * draw(st.sampled_from([1, 1, 3, 400]))
    new = old
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(new)))
        end = draw(st.integers(begin, min(len(new), begin + 300)))
        new = new[:begin] + draw(st.binary(max_size=300)) + new[end:]
    return old, new


@settings(deadline=None, max_examples=150)
@given(versions())
def test_a_delta_makes_the_new_text_of_the_old_one(both: tuple[bytes, bytes]) -> None:
    old, new = both
    found = delta(old, new)
    if found is not None:
        assert patched(old, found) == new


def test_a_delta_of_a_record_is_about_as_long_as_what_changed() -> None:
    lines = [b'  "step-%d": {"status": "pending", "attempt": 1},\n' % number for number in range(5000)]
    old = b"".join([b'{"revision": 17,\n', *lines])
    lines[2500] = b'  "step-2500": {"status": "completed", "attempt": 1, "result": {"text": "a"}},\n'
    new = b"".join([b'{"revision": 1800,\n', *lines])
    found = delta(old, new)
    assert found is not None and len(found) < 400 and patched(old, found) == new


def test_there_is_no_delta_of_what_has_nothing_in_common() -> None:
    assert delta(b"a" * 5000, bytes(range(256)) * 20) is None


def strict(at: Path, pack: Pack) -> None:
    """Put a pack where git looks for it, and have git look at every byte of it and of its index."""
    name, data, index = pack.files()
    folder = at / "objects/pack"
    (folder / f"{name}.pack").write_bytes(data)
    (folder / f"{name}.idx").write_bytes(index)
    git(at, "verify-pack", str(folder / f"{name}.idx"))
    made = at / "made.idx"
    git(at, "index-pack", "--strict", "--no-rev-index", "-o", str(made), str(folder / f"{name}.pack"))
    assert made.read_bytes() == index
    wanted = {oid: (entry.kind, entry.data) for oid, entry in pack.entries.items()}
    asked = "".join(f"{oid}\n" for oid in wanted).encode()
    said = git(at, "cat-file", "--batch", data=asked)
    assert said == b"".join(
        b"%s %s %d\n%s\n" % (oid.encode(), kind.encode(), len(data), data) for oid, (kind, data) in wanted.items()
    )


@pytest.mark.parametrize("object_format", FORMATS)
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(versions(), min_size=1, max_size=6))
def test_git_takes_a_pack_of_any_history(
    tmp_path_factory: pytest.TempPathFactory, object_format: str, history: Sequence[tuple[bytes, bytes]]
) -> None:
    at = repository(tmp_path_factory.mktemp("pack") / "r.git", object_format)
    pack, parent, tree, last = Pack(object_format), tuple[str, ...](), None, None
    for both in history:
        for text in both:
            last = pack.add("blob", text, last)
            inner = pack.add("tree", tree_bytes({"f": TreeEntry(BLOB, last)}))
            tree = pack.add("tree", tree_bytes({"a": TreeEntry(TREE, inner), "b": TreeEntry(BLOB, last)}), tree)
            parent = (pack.add("commit", commit_bytes(tree, parent, WHO, WHO, b"one\n")),)
    strict(at, pack)
    git(at, "update-ref", "refs/heads/x", *parent)
    git(at, "fsck", "--full", "--strict")


@pytest.mark.parametrize("object_format", FORMATS)
def test_a_long_chain_of_versions_is_short_and_no_deeper_than_gits_own(tmp_path: Path, object_format: str) -> None:
    at = repository(tmp_path / "r.git", object_format)
    pack, last, length = Pack(object_format), None, 0
    lines = [b"%d: %d\n" % (number, zlib.crc32(b"%d" % number)) for number in range(20_000)]
    for number in range(2 * DEPTH):
        lines[number * 20] = b"%d: changed\n" % number
        last = pack.add("blob", b"".join(lines), last)
        length += sum(map(len, lines))
    assert max(entry.depth for entry in pack.entries.values()) == DEPTH
    assert pack.size < length / 60
    strict(at, pack)


def test_what_is_added_since_the_last_time_is_what_the_pack_consists_of(tmp_path: Path) -> None:
    pack = Pack("sha1")
    first = pack.add("blob", b"a" * 1000)
    one = pack.since()
    pack.add("blob", b"a" * 1000 + b"b", first)
    pack.add("blob", b"a" * 1000)  # is there
    two = pack.since()
    assert (one[:2], two[:2], pack.since()) == ((True, 1), (False, 1), (False, 0, b""))
    assert pack.files()[1][12:-20] == one[2] + two[2]


def test_the_reader_of_the_simulation_reads_what_git_reads() -> None:
    pack, last = Pack("sha1"), None
    for number in range(20):
        last = pack.add("blob", b"".join(b"%d\n" % (line * (line != number)) for line in range(400)), last)
    assert unpacked(pack.files()[1]) == [(entry.kind, entry.data) for entry in pack.entries.values()]


def test_one_of_a_thousand_steps_that_are_alike_is_a_delta_of_a_few_bytes() -> None:
    def text(done: int) -> bytes:
        steps = {
            f"s{one}": StepState(
                place=one,
                title="S",
                kind="tool",
                needs=[],
                qa="skip",
                digest="0" * 64,
                status=StepStatus.COMPLETED if one <= done else StepStatus.PENDING,
                result={"text": "a"} if one <= done else None,
            )
            for one in range(1000)
        }
        start = State(
            protocol="0001-a",
            genesis="",
            revision=done,
            status=Status.RUNNING,
            title="A",
            base="main",
            plan="",
            steps=Steps(steps),
            waiting=[],
            artifacts=[],
            log=sha256(b"%d" % done).hexdigest(),
        )
        return render(start)

    old, new = text(500), text(501)
    found = delta(old, new)
    assert found is not None and patched(old, found) == new
    assert len(found) < 300


@pytest.mark.parametrize("kind", FORMATS)
def test_the_objects_of_a_pack_are_read_from_its_index_and_from_no_damaged_one(tmp_path: Path, kind: str) -> None:
    pack = Pack(kind)
    made = sorted(pack.add("blob", b"%d" % number) for number in range(600))
    name, data, index = pack.files()
    at = repository(tmp_path / "repo", kind)
    for ending, content in (("pack", data), ("idx", index)):
        (at / f"objects/pack/{name}.{ending}").write_bytes(content)
    written = at / f"objects/pack/{name}.pack"
    for version in (1, 2):
        git(at, "index-pack", f"--index-version={version}", "-o", str(at / f"{version}.idx"), str(written))
    assert listed(index, kind) == made and listed((at / "2.idx").read_bytes(), kind) == made
    torn = [index[:end] for end in (0, 4, 8, 1032, len(index) - 1)]
    for wrong in (*torn, index[:1031] + b"\0" + index[1032:], (at / "1.idx").read_bytes()):
        with pytest.raises(ValueError, match="no index"):
            listed(wrong, kind)
