"""A git server on loopback, over smart HTTP or by a real sshd, that many may talk to at once."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.forge import smart_http

WAIT = 60.0  # seconds that a server may take to listen


@contextlib.contextmanager
def over_http(bare: Path) -> Iterator[tuple[str, str]]:
    """Serve a bare repository; give (its address, git configuration that a client needs)."""

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            smart_http.serve(self, bare.parent, smart_http.body(self), "somebody")

        do_GET = do_POST = _serve

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # all of them may knock at once
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{bare.name}", ""
        server.shutdown()


@contextlib.contextmanager
def over_ssh(bare: Path) -> Iterator[tuple[str, str]]:
    """Serve a bare repository by an sshd of its own: keys made for it, one account, no password."""
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(sshd).exists():
        pytest.skip("sshd is not installed (openssh-server)")
    at = bare.parent / "sshd"
    at.mkdir(mode=0o700)
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", at / name], check=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(
            mode=0o755, exist_ok=True
        )  # where sshd of root lives behind; a service makes it at boot
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (at / "keys").write_text((at / "client.pub").read_text())
    (at / "config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {at}/host\nAuthorizedKeysFile {at}/keys\nPidFile none\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n"
        "MaxStartups 500\nMaxSessions 500\nLogLevel ERROR\n"
    )
    (at / "known").write_text(f"[127.0.0.1]:{port} {' '.join((at / 'host.pub').read_text().split()[:2])}\n")
    with (at / "log").open("w") as log:
        server = subprocess.Popen([sshd, "-D", "-e", "-f", at / "config"], stdin=subprocess.DEVNULL, stderr=log)
    try:
        until = time.monotonic() + WAIT
        while True:
            assert server.poll() is None and time.monotonic() < until, (at / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as there:
                if there.recv(4) == b"SSH-":
                    break
            time.sleep(0.05)
        ssh = f"ssh -F none -i {at}/client -o IdentitiesOnly=yes -o UserKnownHostsFile={at}/known -o BatchMode=yes"
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        yield f"ssh://{user}@127.0.0.1:{port}{bare}", f'[core]\n sshCommand = "{ssh}"\n'
    finally:
        server.terminate()
        server.wait()
