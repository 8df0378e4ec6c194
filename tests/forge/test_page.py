"""The request's page says the status, the waits and the commands that `status` says."""

from __future__ import annotations

import re

from tests.conftest import command
from tests.forge.journey import Town

ASKS = {"01-a": command("true") + "approval: before\n"}


def test_a_cancelled_protocol_asks_nobody_for_an_approval(place: Town) -> None:
    protocol = place.box.new(ASKS)
    place.box.runner("run", protocol, rc=3)
    place.box.runner("cancel", protocol, rc=0)
    for text in (place.said(), str(place.request["description"])):
        assert "cancelled" in text.casefold()
        assert "Waits for" not in text and "approve" not in text
    assert "waits" not in " ".join(text for _, text in place.statuses(protocol).values())


def test_the_page_names_a_protocol_as_commands_take_it(place: Town) -> None:
    box = place.box
    protocol = box.new(ASKS)
    box.git("branch", "0001-another", "main")
    box.write(".protocols/0001-another/state.json", "{}\n")
    box.commit("a folder with the same number")
    box.runner("run", protocol, rc=3)
    assert "is ambiguous" in box.runner("approve", "1", rc=2).err
    place.sync(protocol)
    assert f"sign with `runner approve {protocol}`" in place.said()


def test_the_page_names_the_commands_that_status_names(place: Town) -> None:
    box = place.box
    protocol = box.new({"01-a": "kind: human\n", "02-b": command("false")})

    def page_and_status() -> tuple[str, str]:
        (status,) = box.runner("status", protocol, "--json", rc=0).json()["protocols"]
        return place.said(), str(status["command"])

    page, typed = page_and_status()
    assert "### Waits for nobody" in page and typed == "runner run 1" and f"type `{typed}`" in page
    box.runner("pause", protocol, rc=0)
    page, typed = page_and_status()
    assert "### Paused" in page and typed == "runner resume 1"
    assert f"comment `/runner resume`, or type `{typed}`" in page
    box.runner("resume", protocol, rc=0)
    box.runner("run", protocol, rc=3)
    page, typed = page_and_status()
    assert typed == "runner answer 1 TEXT"
    # A comment may be read when another question waits, so it names this one.
    assert re.search(r"comment `/runner answer (w[0-9]) TEXT`, or type `runner answer 1 \1 TEXT`", page)
    box.runner("answer", protocol, "done", rc=0)
    box.runner("run", protocol, rc=1)
    assert "comment `/runner retry`, or type `runner retry 1`" in place.said()
