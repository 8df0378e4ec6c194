"""Tell people what waits for them, outside the terminal: by a command or mail of the person's own git configuration, and by webhooks.

Level-triggered, as `watch` is: each call gets all waits, and one message has every new one. A note of each message is kept beside the
repository, so that a restart sends nothing twice. Nothing depends on it: a message that is lost changes no protocol.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import smtplib
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from runner.app import describe
from runner.errors import RunnerError
from runner.git.process import answer
from runner.lines import counted, cut, is_harmless
from runner.protocol.plans import seconds_of
from runner.protocol.state import ENDED, read_json
from runner.store import locks, lookup, record
from runner.store.environment import write_atomically
from runner.store.project import Project, Session
from runner.trust import policy, trusted_config

if TYPE_CHECKING:
    from runner.protocol.state import Row

LIMIT: Final = 10.0  # seconds that one way of telling may take
PATIENCE: Final = 60.0  # seconds that another process may take for its message
AGAIN: Final = 300.0  # seconds until a message that could not be sent is retried
MOST: Final = 20  # protocols of one message; of the others it has the number
WIDTH: Final = 400  # characters of a line
LOCAL: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Ways:
    """How people are notified. `mail`: addresses; `smtp`: `sendemail` of git's settings; `webhooks`: variables that hold addresses."""

    command: str
    mail: tuple[str, ...]
    smtp: Mapping[str, str]
    webhooks: tuple[str, ...]

    @classmethod
    def of(cls, project: Project) -> Ways | None:
        """Return those of the person here and of the trusted branch; None where there are none.

        The command and the addresses are never the repository's to say: others can write its configuration.
        """
        own = project.git.personal_settings()
        smtp = {key.partition(".")[2]: own[key][-1] for key in own if key.startswith("sendemail.smtp")}
        webhooks = tuple(name for name in project.config.notify.webhooks if project.env.environ.get(name))
        command, mail = own.get("runner.notify", ("",))[-1], tuple(own.get("runner.mail", ()))
        return cls(command, mail, smtp, webhooks) if command or mail or webhooks else None


def tell(session: Session, tips: Mapping[str, str]) -> float:
    """Tell people of the protocols (id to tip) that wait for a person now, or still wait when a reminder is due.

    Of two processes that see the same wait, the first reports it: the other waits for its turn.

    Returns in how many seconds it should be called again although nothing changed. An error is printed, and stops nothing.
    """
    try:
        ways = Ways.of(session.project)
        if ways is None:
            return math.inf
        with locks.hold(session.dirs.beside / "notified.lock", session.env, what="notifying", wait=PATIENCE):
            return _tell(session, ways, tips)
    except (RunnerError, OSError) as error:
        session.env.say(f"nobody was notified: {error.what if isinstance(error, RunnerError) else error}")
        return AGAIN


def _tell(session: Session, ways: Ways, tips: Mapping[str, str]) -> float:
    now, project, notify = session.env.now(), session.project, session.project.config.notify
    after = float(seconds_of(notify.after)) if notify.after else math.inf
    path = session.dirs.beside / "notified"
    known = read_json(path.read_bytes()) if path.is_file() else None
    sent = known if isinstance(known, dict) else {}
    before = dict(sent)
    new, old, again = dict[str, str](), dict[str, str](), math.inf
    for row in record.rows(session.git, tips):
        protocol = str(row["protocol"])
        key = _key(row)
        if not key:
            sent.pop(protocol, None)
            continue
        since, reminded, is_known = _since(row, now), False, False
        match sent.get(protocol):
            case [str() as same, int() | float() as time, bool() as done] if same == key:
                since, reminded, is_known = time, done, True
        due = since + after - now
        if not is_known:
            new[protocol] = key
        if due <= 0 and not reminded:
            old[protocol] = key
        elif not reminded:
            again = min(again, due)
        sent[protocol] = [key, since, bool(reminded or due <= 0)]
    if not new and not old:
        if sent != before:
            _keep(project, sent)
        return again
    people = _people(project)
    lines = [_line(session, protocol, tips[protocol]) for protocol in new.keys() - old.keys()]
    reminders = [f"reminder: {_line(session, protocol, tips[protocol])}{people[0]}" for protocol in old]
    if _send(project, ways, sorted(lines), sorted(reminders), people[1]):
        _keep(project, sent)
        return again
    return min(again, AGAIN)


def _keep(project: Project, sent: Mapping[str, object]) -> None:
    with contextlib.suppress(OSError):
        write_atomically(project.dirs.beside / "notified", json.dumps(sent, sort_keys=True).encode())


def _key(row: Row) -> str:
    """Return what tells one wait of a protocol from the next; empty where it waits for nobody, or only for who paused it."""
    if row["status"] in ENDED or row["status"] == "paused":
        return ""
    found = record.outlook(row)
    if found.action != "none":
        return ""
    return " ".join(found.waiting) or f"{row['status']} {row['revision']}"


def _since(row: Row, now: float) -> float:
    """Return when the wait started, in seconds since the epoch; now where the record does not say."""
    found = [str(wait.get("since")) for wait in row["waiting"]]
    with contextlib.suppress(ValueError):
        return min((datetime.fromisoformat(since).timestamp() for since in found), default=now)
    return now


def _line(session: Session, protocol: str, tip: str) -> str:
    """Return who is waited for and what to type."""
    row = record.row(session.git, protocol, tip)
    try:
        found = describe.describe(session, row, tip, lookup.typed(session.project, protocol))
        then = found.next.shown("runner") or f"runner show {protocol}"
        return _plain(f"{protocol} {found.term} {found.reason}; {then}")
    except RunnerError as error:
        return _plain(f"{protocol} {row['status']}: {error.what}; runner show {protocol}")


def _plain(text: str) -> str:
    line = "".join(filter(is_harmless, " ".join(text.split())))
    return cut(line, WIDTH)


def _people(project: Project) -> tuple[str, tuple[str, ...]]:
    """Return whom a reminder is also for: words for people, and those of them that are addresses."""
    also = project.config.notify.also
    if not also:
        return "", ()
    trusted = trusted_config.of(project)
    roles = trusted.policy.content.roles if trusted.policy is not None else {}
    words = [f"{role} ({', '.join(roles.get(role, ())) or 'nobody has this role'})" for role in also]
    names = dict.fromkeys(name for role in also for name in roles.get(role, ()))
    return f"; also for {', '.join(words)}", tuple(name for name in names if "@" in name)


def _send(project: Project, ways: Ways, lines: Sequence[str], reminders: Sequence[str], also: Sequence[str]) -> bool:
    """Send one message each way, and return whether one of them worked; say of the others why not."""
    every, worked = [*reminders, *lines], False
    for name in ways.webhooks:
        worked |= _works(project, f"the webhook of {name}", partial(_post, project, name, _shown(every)))
    more = [one for one in also if one not in ways.mail] if ways.mail else []
    for to, about in ((ways.mail, every), (more, reminders)):
        if to and about:
            worked |= _works(project, f"mail to {', '.join(to)}", partial(_mail, project, ways, to, about))
    if ways.command:
        worked |= _works(project, "`runner.notify`", partial(_start, project, ways.command, _shown(every)))
    return worked


def _works(project: Project, name: str, send: Callable[[], None]) -> bool:
    try:
        send()
    except (OSError, ValueError, http.client.HTTPException, smtplib.SMTPException) as error:
        project.env.say(f"nobody was notified by {name}: {_plain(str(error)) or type(error).__name__}")
        return False
    return True


def _shown(lines: Sequence[str]) -> str:
    more = len(lines) - MOST
    return "\n".join([*lines[:MOST], *([f"and {more} more; runner list --waiting"] if more > 0 else [])]) + "\n"


def _post(project: Project, name: str, text: str) -> None:
    """Post a text to a webhook as Slack takes it. A redirect is not followed, and no title makes a mention or a link."""
    address = project.env.environ[name].strip()
    # An error that quotes it would show the secret.
    if not address.isascii() or not address.isprintable() or " " in address:
        raise ValueError("its address is no URL")
    parts = urlsplit(address)
    host = parts.hostname or ""
    if parts.scheme != "https" and not (parts.scheme == "http" and host in LOCAL):
        raise ValueError("its address should begin with https://")
    decision = policy.evaluate(trusted_config.of(project).rules, policy.reached(host, step="notify"))
    if decision.verdict != "allow":
        raise ValueError(f"the policy does not allow {host}; name it under `network: {{allow: […]}}` of policy.yaml")
    for char, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(char, written)
    connect = partial(http.client.HTTPSConnection, context=ssl.create_default_context())
    connection = (connect if parts.scheme == "https" else http.client.HTTPConnection)(host, parts.port, timeout=LIMIT)
    with contextlib.closing(connection):
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, json.dumps({"text": text}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if not 200 <= answer.status < 300:
            raise ValueError(f"{host} answered {answer.status}")


def _mail(project: Project, ways: Ways, to: Sequence[str], lines: Sequence[str]) -> None:
    """Send a mail by the server of `sendemail` in the person's git configuration; a password goes out encrypted, or not at all."""
    host, kind = ways.smtp.get("smtpserver", "localhost"), ways.smtp.get("smtpencryption", "").lower()
    user, word = ways.smtp.get("smtpuser"), ways.smtp.get("smtppass")
    if "/" in host:
        raise ValueError(
            f"sendemail.smtpServer is the program {host}; name a server, or start the program by `runner.notify`"
        )
    if user and not word:
        raise ValueError("sendemail.smtpUser is set, and sendemail.smtpPass is not")
    if user and kind not in ("ssl", "tls") and host not in LOCAL:
        raise ValueError("the password would go out unencrypted; set sendemail.smtpEncryption to tls or ssl")
    mail = EmailMessage()
    count = counted(len(lines), "protocol")
    mail["Subject"] = f"{count} of {(project.git.top or project.git.common_dir).name}: waiting for people"
    mail["From"], mail["To"] = ways.mail[0], ", ".join(to)
    mail["Date"] = formatdate(project.env.now())
    mail.set_content(_shown(lines))
    secure = ssl.create_default_context()
    port = int(ways.smtp.get("smtpserverport") or {"ssl": 465, "tls": 587}.get(kind, 25))
    make = partial(smtplib.SMTP_SSL, context=secure) if kind == "ssl" else smtplib.SMTP
    with make(host, port, timeout=LIMIT) as server:
        if kind == "tls":
            server.starttls(context=secure)
        if user and word:
            server.login(user, word)
        server.send_message(mail)


def _start(project: Project, command: str, text: str) -> None:
    argv = ["sh", "-c", command]
    if answer(argv, env=project.env.environ, cwd=project.git.common_dir, data=text.encode(), timeout=LIMIT) is None:
        raise ValueError(f"it failed, or took more than {LIMIT:g} s")
