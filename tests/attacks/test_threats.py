"""What git makes possible (pitfalls P1 to P40 of the threat list), and the case that shows what the verifier says to it.

A case is a stored history (`attacks/…`, `words/…`, `beside/…`, `good/…`) or a test (`FILE::TEST`). What no verifier meets, because it
is about writing, locking, publishing or CI, is not here; those have their own tests.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.attacks.forge import Forge
from tests.attacks.test_attacks import ATTACKS, paused
from tests.histories.stored import cases

TESTS = Path(__file__).parents[1]
HERE = "attacks/test_threats.py"
PLACES = "attacks/test_hostile_places.py::test_a_hostile_place_makes_no_word_count"

COVERED: dict[str, tuple[str, ...]] = {
    "P1 a squash, a rebase, an amend": (
        "beside/squashed_with_the_branch_gone", "beside/squashed_as_a_forge_does_with_its_history_gone",
        "beside/a_history_that_was_swapped_for_another_good_one",
        "trust/test_merged.py::test_what_was_merged_proves_itself_while_its_history_is_here",
    ),
    "P3 a shallow clone": (
        "trust/test_verify.py::test_a_clone_that_cannot_tell_says_what_to_fetch",
        "histories/test_histories.py::test_what_is_not_here_is_never_taken_for_good_nor_for_bad",
    ),
    "P4 a partial clone": ("trust/test_verify.py::test_a_clone_that_cannot_tell_says_what_to_fetch",),
    "P9 refs that nothing protects": ("beside/a_branch_that_went_back", "beside/a_seal_of_a_transition_that_was_taken_away"),
    "P10 a branch rolled back or deleted": (
        "beside/a_branch_that_went_back", "beside/merged_with_branch_and_history_gone", "attacks/an_empty_chain",
    ),
    "P11 a merge that makes valid JSON": ("attacks/a_textual_merge_of_two_states", "attacks/state_json_with_merge_markers"),
    "P13 line ends": (
        "words/crlf_by_a_checkout", "words/crlf_that_was_signed", "words/a_byte_order_mark",
        "trust/test_verify.py::test_sha256_and_plans_with_other_line_ends",
    ),
    "P14 filters that run code": (PLACES,),
    "P15 configuration that runs code": (PLACES,),
    "P16 a bare repository in the tree": (f"{HERE}::test_a_repository_within_the_tree_is_not_asked",),
    "P17 GIT_ variables": (PLACES,),
    "P18 replace refs, grafts, the commit-graph": (
        "trust/test_verify.py::test_replace_refs_and_grafts_are_not_followed",
        f"{HERE}::test_a_commit_graph_is_not_believed",
    ),
    "P19 symbolic links": ("attacks/a_symlink_in_the_folder", "attacks/a_symlink_in_the_folder_s_place", "words/symlinked"),
    "P20 names that file systems take for one": (
        "attacks/names_that_differ_in_case", "attacks/a_folder_that_differs_in_case", "attacks/a_root_that_differs_in_case",
        "attacks/a_name_that_is_not_ascii",
    ),
    "P21 what reads otherwise than it is": (
        "attacks/a_name_that_reads_backwards", "attacks/a_plan_that_reads_backwards", "attacks/a_name_that_is_not_ascii",
    ),
    "P22 paths that lead out": ("attacks/a_way_out_of_the_folder", "attacks/a_name_with_a_backslash", "words/a_path_for_a_protocol"),
    "P23 submodules": ("attacks/a_submodule_in_the_folder",),
    "P24 huge files": ("words/nine_kilobytes", "attacks/an_amount_that_fills_the_memory", "attacks/a_value_nested_without_end"),
    "P28 objects that were pruned": ("histories/test_histories.py::test_what_is_not_here_is_never_taken_for_good_nor_for_bad",),
    "P29 odd dates": (
        "good/odd_dates", "words/an_expired_key_and_everything_dated_back", 
        "words/a_word_counted_at_a_time_that_never_was/used",
    ),
    "P30 kinds of object ids": ("good/with_object_ids_of_sha256",),
    "P34 forged trailers": (
        "attacks/a_trailer_in_a_persons_commit", "attacks/a_trailer_in_capitals", "attacks/a_trailer_hidden_by_a_line_after_it",
        "attacks/trailers_in_a_merge", "attacks/a_trailer_of_another_event",
    ),
    "P35 escapes in names": (f"{HERE}::test_what_verify_prints_has_no_control_characters",),
    "P36 what git is told to ignore": ("attacks/a_record_that_git_is_told_to_ignore",),
    "P37 people's edits while a step runs": (
        "good/work_that_was_merged_onto_an_edit", "words/a_word_and_work_that_began_before_a_commit_of_a_person_s/used",
        "words/a_step_ended_after_an_edit_of_its_words/used",
    ),
    "P38 hooks and attributes": (PLACES,),
    # of the algorithm of section 1.3 and the mistakes of section 6
    "a merge the wrong way round": ("attacks/a_foxtrot_merge", "beside/merged_the_wrong_way_round"),
    "keys that stand twice in JSON": ("attacks/duplicate_keys_in_state_json", "words/a_duplicated_field"),
    "an approval that was edited back (ABA)": ("words/edited_and_edited_back",),
    "a history that is empty": ("attacks/an_empty_chain",),
}  # fmt: skip


@pytest.mark.parametrize("threat", COVERED)
def test_each_threat_has_its_cases(threat: str) -> None:
    for name in COVERED[threat]:
        file, _, test = name.partition("::")
        if test:
            assert re.search(rf"^def {test}\(", (TESTS / file).read_text(), re.MULTILINE), name
        else:
            assert name in cases(), name


def test_a_commit_graph_is_not_believed(forge: Forge) -> None:
    """The graph says that the tip stands on what is good; the commit itself stands on a forged one."""
    good = forge.tip
    forged = forge.commit({f"{forge.folder}/state.json": "{}"})
    tip = forge.commit(
        {f"{forge.folder}/state.json": forge.box.git("show", f"{good}:{forge.folder}/state.json"), "x": "x"}
    )
    forge.imitate(paused(forge))
    forge.box.git("commit-graph", "write", "--reachable")
    file = forge.box.path / ".git/objects/info/commit-graph"
    data = bytearray(file.read_bytes())
    chunks = {
        bytes(data[8 + at : 12 + at]): int.from_bytes(data[12 + at : 20 + at]) for at in range(0, 12 * data[6], 12)
    }
    count = int.from_bytes(data[chunks[b"OIDF"] + 1020 : chunks[b"OIDF"] + 1024])
    oids = [data[chunks[b"OIDL"] + 20 * at :][:20].hex() for at in range(count)]
    parent = chunks[b"CDAT"] + 36 * oids.index(tip) + 20
    data[parent : parent + 4] = oids.index(good).to_bytes(4)
    file.chmod(0o644)
    file.write_bytes(data)
    assert forged not in forge.box.git("rev-list", tip), "git itself does not believe it: the test shows nothing"
    forge.commit({"y": "y"})
    assert forge.holds().notes[0] == "ordinary commits damaged the record, and a person reverted them"


def test_a_repository_within_the_tree_is_not_asked(forge: Forge, tmp_path: Path) -> None:
    """Whoever stands in it asks about it, and it has nothing to run."""
    forge.imitate(paused(forge))
    trace, inner = tmp_path / "trace", forge.box.path / "inner"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {trace}\n")
    program.chmod(0o755)
    forge.box.git("init", "-q", "--bare", inner)
    forge.box.git("config", "-f", inner / "config", "core.fsmonitor", str(program))
    forge.box.git("config", "-f", inner / "config", "core.bare", "false")
    forge.box.git("config", "-f", inner / "config", "core.worktree", str(inner))
    forge.box.runner("verify", forge.protocol, cwd=inner)
    forge.box.runner("verify", forge.protocol, rc=0)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name", ["a_name_with_a_control_character", "a_name_that_reads_backwards", "a_name_that_is_not_ascii"]
)
def test_what_verify_prints_has_no_control_characters(name: str, forge: Forge) -> None:
    ATTACKS[name][0](forge)
    forge.commit({f"{forge.folder}/x\x1b[2J\u202e.md": "x"})
    said = forge.box.runner("verify", forge.protocol, rc=4)
    assert [char for char in said.out + said.err if not char.isprintable() and char != "\n"] == []
