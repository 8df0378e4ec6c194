"""Many objects asked for at once: no pipe is filled, and no answer is taken for another's."""

from __future__ import annotations

import signal

import pytest

from runner.git import Git, TreeEntry
from runner.git.database import IN_TURN
from runner.git.objects import BLOB
from runner.git.process import CHUNK, GitError, HeldProcess
from tests.conftest import Box


@pytest.mark.timeout(60)
@pytest.mark.parametrize("length", [1, 200, 3000])
def test_names_of_any_length_are_answered(box: Box, length: int) -> None:
    """git waits for somebody to read its answers, while it is told of more names than a pipe takes."""
    with Git.open(box.path) as git:
        data = [b"%d\n" % number * 30_000 for number in range(40)]
        folder = "/".join(["d" * min(length, 200)] * max(1, length // 200))
        files = {f"{folder}/{number}": TreeEntry(BLOB, git.write("blob", one)) for number, one in enumerate(data)}
        tree = git.edit_tree(None, files)
        names = [f"{tree}:{path}" for path in files] * 5
        assert git.blobs(names) == data * 5
        assert list(git.stream(names)) == data * 5
        assert git.blobs([*names, "none"])[-1] is None
        assert git.blobs([]) == list(git.stream([])) == []


def test_what_is_cut_is_answered_to_nobody(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    with Git.open(box.path) as git:
        oids = [git.write("blob", b"%d\n" % number) for number in range(10)]
        answer = HeldProcess.answer
        left = [5]

        def cut(held: HeldProcess) -> bytes:
            left[0] -= 1
            if left[0] == 0:
                held.stdout = Cut(held.stdout)  # type: ignore[assignment]
            return answer(held)

        monkeypatch.setattr(HeldProcess, "answer", cut)
        with pytest.raises(KeyboardInterrupt):
            git.blobs(oids)
        assert git.blob(oids[9]) == b"9\n"
        some = git.stream(oids * 20)
        assert next(some) == b"0\n"
        some.close()  # type: ignore[attr-defined]
        assert git.blob(oids[8]) == b"8\n"


def test_a_broken_one_among_many_stops_them_after_those_before_it(box: Box) -> None:
    with Git.open(box.path) as git:
        good, broken = (git.write("blob", data) for data in (b"good\n", b"x" * 1000))
        git.settle()
        path = box.path / ".git/objects" / broken[:2] / broken[2:]
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:20])
        answers = git.stream([good, "none"] * 100 + [broken, good])
        assert [next(answers) for _ in range(200)] == [b"good\n", None] * 100
        with pytest.raises(GitError, match=r"stream|corrupt"):
            next(answers)
        assert git.blob(good) == b"good\n"


def test_many_are_read_by_two_that_take_turns(box: Box) -> None:
    """Every kind of answer, at the ends of turns too, and blobs that are larger than a pipe."""
    with Git.open(box.path) as git:
        data = [b"%d\n" % number * (300_000 if number % 97 == 0 else 7) for number in range(IN_TURN * 3 + 7)]
        names: list[str] = [git.write("blob", one) for one in data]
        wanted: list[bytes | None] = list(data)
        tree = git.edit_tree(None, {"a": TreeEntry(BLOB, names[0])})
        for at, name in ((0, "none"), (IN_TURN - 1, f"{tree}:none"), (IN_TURN, str(tree)), (2 * IN_TURN, "HEAD")):
            names[at], wanted[at] = name, None
        names[5], wanted[5] = f"{tree}:a", data[0]
        assert list(git.stream(names)) == wanted
        some = git.stream(names)
        assert [next(some) for _ in range(IN_TURN + 1)] == wanted[: IN_TURN + 1]
        some.close()  # type: ignore[attr-defined]
        assert git.blob(names[7]) == data[7]


def test_one_that_breaks_in_its_turn_stops_all_after_those_before_it(box: Box) -> None:
    with Git.open(box.path) as git:
        good, broken = (git.write("blob", data) for data in (b"good\n", b"x" * 1000))
        git.settle()
        path = box.path / ".git/objects" / broken[:2] / broken[2:]
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:20])
        answers = git.stream([good] * (IN_TURN + 3) + [broken] + [good] * IN_TURN)
        assert [next(answers) for _ in range(IN_TURN + 3)] == [b"good\n"] * (IN_TURN + 3)
        with pytest.raises(GitError, match=r"stream|corrupt"):
            next(answers)
        assert git.blob(good) == b"good\n"


def test_much_input_is_read_whole(box: Box) -> None:
    with Git.open(box.path) as git:
        data = b"x" * (CHUNK * 3 + 1)
        assert git.run("hash-object", "--stdin", data=data).decode().strip() == git.write("blob", data)
        assert git.try_run("rev-parse", "HEAD", data=data)[0] == 0  # it reads none of it


class Cut:
    """An output of git's at which Ctrl-C comes while it is waited for."""

    def __init__(self, real: object) -> None:
        self._real, self._cut = real, False

    def readline(self) -> bytes:
        self._cut = True
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("SIGINT is heard before this")

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)
