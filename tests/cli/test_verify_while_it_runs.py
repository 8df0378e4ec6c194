"""`runner verify` of a protocol that a runner advances meanwhile, and of one whose objects are damaged."""

from __future__ import annotations

import zlib

from runner.git.objects import name_of
from tests.conftest import Box

STEP = "kind: tool\ntool: echo\nwith: {text: x}"


def test_what_a_runner_adds_meanwhile_is_no_history_that_went_back(box: Box) -> None:
    protocol = box.new({f"{number:02d}-s{number}": STEP for number in range(1, 13)})
    with box.start("run", protocol) as running:
        while running.poll() is None:
            told = box.runner("verify", protocol)
            assert told.code == 0, told.out
        assert running.wait() == 0, running.communicate()


def test_a_state_whose_bytes_are_not_its_id_s_does_not_verify(box: Box) -> None:
    protocol = box.new({"01-a": STEP})
    box.runner("run", protocol, rc=0)
    oid = box.git("rev-parse", f"{protocol}:.protocols/{protocol}/state.json").strip()
    file = box.path / ".git/objects" / oid[:2] / oid[2:]
    whole = zlib.decompress(file.read_bytes())
    file.chmod(0o644)
    file.write_bytes(zlib.compress(whole.replace(b'"completed"', b'"cancelled"')))
    told = box.runner("verify", protocol, rc=4)
    assert "state.json" in told.out
    file.write_bytes(zlib.compress(whole))
    assert name_of("blob", whole.partition(b"\0")[2], "sha1") == oid
