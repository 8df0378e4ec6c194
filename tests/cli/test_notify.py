"""What `watch`, and a command that ends with a wait, tells people outside the terminal: each wait once."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from unittest.mock import patch

import pytest

from runner.app import notify
from tests.conftest import Box, command, set_env, slack
from tests.forge.serving import Answer, Asked, Server

HUMAN = "kind: human\n"
HOURS = 3600.0
ROLES = 'repo: "0123456789abcdef0123456789abcdef"\nroles: {lead: [carol@example.test]}\n'


class _Hook(Server):
    """A webhook: keeps what was posted, and answers with `status`."""

    def __init__(self, status: int = 200) -> None:
        super().__init__()
        self.status = status

    def respond(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        return Answer(self.status, {}, {"Location": f"{self.url}/elsewhere"})

    @property
    def texts(self) -> list[str]:
        return [one.body["text"] for one in self.asked]


@contextlib.contextmanager
def post_office() -> Iterator[tuple[int, list[str]]]:
    """Serve SMTP, and give (its port, the mails: recipients, headers and text)."""
    mails: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            to, text = "", None  # type: str, list[str] | None
            for raw in self.rfile:
                line = raw.decode().rstrip("\r\n")
                if text is not None:
                    if line != ".":
                        text.append(line)
                        continue
                    mails.append("\n".join([to, *text]))
                    text = None
                elif line.upper() == "DATA":
                    self.wfile.write(b"354 go on\r\n")
                    text = []
                    continue
                to += line.partition(":")[2] if line.upper().startswith("RCPT") else ""
                self.wfile.write(b"221 bye\r\n" if line.upper() == "QUIT" else b"250 yes\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server.server_address[1], mails
        server.shutdown()


def tell(box: Box, *protocols: str, later: float = 0.0, **environ: str) -> tuple[float, list[str]]:
    """Tell people as `watch` does, `later` seconds from now; return (the seconds until again, what the person here is told)."""
    said: list[str] = []
    with patch.dict(os.environ, box.environment()), box.session() as session:
        known = {**session.env.environ, **environ}
        set_env(session, now=lambda: time.time() + later, environ=known, say=said.append)
        return notify.tell(session, {name: session.project.tip(name) or "" for name in protocols}), said


def configured(box: Box, text: str, *, policy: str = "") -> None:
    box.write(".protocols/config.yaml", text)
    if policy:
        box.write(".protocols/policy.yaml", policy)
    box.commit()


@pytest.fixture
def waiting(box: Box) -> list[str]:
    """Two protocols that wait for a person."""
    found = [box.new({"01-look": HUMAN}, title=f"Plan <!channel> {name}") for name in "ab"]
    for name in found:
        box.runner("run", name, rc=3)
    return found


def test_each_wait_is_told_once_in_one_message_with_who_and_what_to_type(box: Box, waiting: list[str]) -> None:
    box.git("config", "--global", "runner.notify", f"cat >> {box.home}/told; echo -- >> {box.home}/told")
    tell(box, *waiting)
    tell(box, *waiting)
    first, second, end = (box.home / "told").read_text().splitlines()
    assert end == "--"
    assert first.startswith(f"{waiting[0]} waits for anyone: 01-look, since ") and first.endswith(
        "; runner answer 1 TEXT"
    )
    assert second.startswith(waiting[1]) and second.endswith("; runner answer 2 TEXT")
    box.runner("answer", waiting[0], "done", rc=0)
    box.runner("run", waiting[0], rc=0)
    tell(box, *waiting)
    assert (box.home / "told").read_text().count("--") == 1


def test_a_failure_is_told_and_what_only_works_or_was_paused_is_not(box: Box) -> None:
    box.git("config", "--global", "runner.notify", f"cat >> {box.home}/told")
    failed, ready, paused = (box.new({"01-a": command(line)}) for line in ("false", "true", "true"))
    box.runner("run", failed, rc=1)
    box.runner("pause", paused, rc=0)
    tell(box, failed, ready, paused)
    (line,) = (box.home / "told").read_text().splitlines()
    assert line.startswith(f"{failed} failed 01-a: ") and line.endswith("runner retry 1")


def test_a_reminder_tells_more_people_once(box: Box, waiting: list[str]) -> None:
    with post_office() as (port, mails):
        configured(box, "notify: {after: 4h, also: lead}\n", policy=ROLES)
        for key, value in {
            "runner.mail": "me@example.test",
            "sendemail.smtpServer": "127.0.0.1",
            "sendemail.smtpServerPort": port,
        }.items():
            box.git("config", "--global", key, str(value))
        again, said = tell(box, *waiting)
        assert said == []
        assert 3.9 * HOURS < again <= 4 * HOURS
        assert len(mails) == 1 and "<me@example.test>" in mails[0] and "carol" not in mails[0]
        tell(box, *waiting, later=3.9 * HOURS)
        assert len(mails) == 1
        tell(box, *waiting, later=4.1 * HOURS)
        tell(box, *waiting, later=9 * HOURS)
    assert len(mails) == 3 and "<me@example.test>" in mails[1] and "<carol@example.test>" in mails[2]
    assert "Subject: 2 protocols of repo: waiting for people" in mails[2] and "\nDate: " in mails[2].replace("\r", "")
    assert f"reminder: {waiting[0]} waits for anyone" in mails[2] and "also for lead (carol@example.test)" in mails[2]


def test_who_gets_the_mail_already_gets_no_second_one_by_role(box: Box, waiting: list[str]) -> None:
    with post_office() as (port, mails):
        configured(box, "notify: {after: 4h, also: lead}\n", policy=ROLES)
        for key, value in {
            "runner.mail": "carol@example.test",
            "sendemail.smtpServer": "127.0.0.1",
            "sendemail.smtpServerPort": port,
        }.items():
            box.git("config", "--global", key, str(value))
        tell(box, *waiting, later=5 * HOURS)
    assert len(mails) == 1 and "reminder: " in mails[0]


def test_a_webhook_gets_what_waits_where_the_policy_names_its_host(box: Box, waiting: list[str]) -> None:
    with contextlib.closing(_Hook()) as hook:
        configured(box, "notify: {webhooks: [HOOK]}\n")
        assert tell(box, *waiting) == (math.inf, [])  # without the variable nothing is told from this machine
        again, said = tell(box, *waiting, HOOK=f"{hook.url}/T0/secret")
        assert not hook.asked and again == notify.AGAIN
        assert "the policy does not allow localhost" in said[0] and "secret" not in said[0]
        configured(box, "notify: {webhooks: [HOOK]}\n", policy=f"{ROLES}network: {{allow: [localhost]}}\n")
        assert tell(box, *waiting, HOOK=f"{hook.url}/T0/secret")[1] == []
        assert [one.path for one in hook.asked] == ["/T0/secret"]
        assert hook.texts[0].count("\n") == 2 and "runner answer 1 TEXT" in hook.texts[0]


def test_a_policy_that_cannot_be_read_is_said_and_ends_nothing(box: Box, waiting: list[str]) -> None:
    box.git("config", "--global", "runner.notify", "cat")
    configured(box, "notify: {after: 1s, also: lead}\n", policy="roles: []\n")
    again, said = tell(box, *waiting)
    assert again == notify.AGAIN and said[0].startswith("nobody was notified: ")


def test_no_title_mentions_anybody_and_no_answer_leads_elsewhere(box: Box) -> None:
    box.git("config", "--global", "runner.mail", "me@example.test")
    box.git("config", "--global", "sendemail.smtpServer", "mail.example.test")
    box.git("config", "--global", "sendemail.smtpUser", "me")
    box.git("config", "--global", "sendemail.smtpPass", "pass")
    configured(box, "notify: {webhooks: [HOOK]}\n", policy=f"{ROLES}network: {{allow: [localhost]}}\n")
    protocol = box.new({"01-look": command("echo '<!channel>'; exit 1")})
    box.runner("run", protocol, rc=1)
    with contextlib.closing(_Hook(302)) as hook:
        _, said = tell(box, protocol, HOOK=f"{hook.url}/secret")
        assert len(hook.asked) == 1 and "<" not in hook.texts[0]
    assert "localhost answered 302" in said[0] and "the password would go out unencrypted" in said[1]


def listening(box: Box) -> Callable[[], list[str]]:
    """Have `runner.notify` keep its messages; return what gives them, each as its lines joined by a blank."""
    box.git(
        "config", "--global", "runner.notify", f"sleep 0.2; tr '\\n' ' ' >> {box.home}/told; echo >> {box.home}/told"
    )
    path = box.home / "told"
    return lambda: path.read_text().splitlines() if path.exists() else []


def test_a_command_that_ends_with_a_wait_tells_it_once_and_watch_does_not_again(box: Box) -> None:
    told = listening(box)
    protocol = box.new({"01-a": command("true"), "02-look": HUMAN, "03-last": HUMAN})
    box.runner("run", protocol, rc=3)
    assert (
        len(told()) == 1 and told()[0].startswith(f"{protocol} waits for anyone: 02-look") and "answer 1" in told()[0]
    )
    box.runner("run", protocol, rc=3)
    tell(box, protocol)
    assert len(told()) == 1
    box.runner("answer", protocol, "done", rc=0)
    assert len(told()) == 1
    box.runner("step", protocol, rc=0)
    box.runner("step", protocol, rc=3)
    assert len(told()) == 2 and "03-last" in told()[1]
    box.runner("do", "--workflow", "echo-add", "--input", "text=x", "--input", "a=1", "--input", "b=2", rc=0)
    assert len(told()) == 2


def test_in_a_clone_that_knows_of_no_message_an_old_wait_is_not_told_anew(box: Box, waiting: list[str]) -> None:
    """A CI job has a clone of its own each time, and nothing of `.git/runner`."""
    told = listening(box)
    box.runner("run", waiting[0], rc=3)
    box.runner("step", waiting[1], rc=3)
    assert told() == []


def test_a_fleet_tells_all_that_began_to_wait_in_one_message(box: Box) -> None:
    told = listening(box)
    waiting = [box.new({"01-look": HUMAN}, title=name) for name in ("one", "two")]
    failed = box.new({"01-a": command("false")}, title="three")
    box.runner("fleet", rc=1)
    (message,) = told()
    assert all(name in message for name in (*waiting, failed))


def test_of_two_that_see_a_wait_at_once_one_tells_it(box: Box, waiting: list[str]) -> None:
    told = listening(box)
    children = [box.start("watch", "--poll") for _ in range(2)]
    try:
        end = time.monotonic() + 60 * slack()
        while not told() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(2)
    finally:
        for child in children:
            child.send_signal(signal.SIGINT)
            child.communicate(timeout=60)
    assert len(told()) == 1 and all(name in told()[0] for name in waiting)
