"""Git over smart HTTP: `git http-backend` behind a handler of Python's own server. Who may come in is the caller's matter."""

from __future__ import annotations

import os
import subprocess
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit


def body(handler: BaseHTTPRequestHandler) -> bytes:
    """Return what was sent, of a known length or in chunks; a connection that is kept needs all of it read."""
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
    data = b""
    while size := int(handler.rfile.readline(), 16):
        data += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return data


def refuse(handler: BaseHTTPRequestHandler) -> None:
    """Ask for a name and a password."""
    handler.send_response(401)
    handler.send_header("WWW-Authenticate", 'Basic realm="git"')
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def serve(handler: BaseHTTPRequestHandler, root: Path, data: bytes, user: str, *, path: str | None = None) -> None:
    """Answer from the bare repositories below `root`. `path`: of the request, as seen from `root`; its own by default."""
    respond(handler, *answer(handler, root, data, user, path=path))


def answer(
    handler: BaseHTTPRequestHandler, root: Path, data: bytes, user: str, *, path: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Do what is asked, and return what would be answered: status, fields, body."""
    parts = urlsplit(handler.path)
    env = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": parts.path if path is None else path,
        "QUERY_STRING": parts.query,
        "REQUEST_METHOD": handler.command,
        "CONTENT_TYPE": handler.headers.get("Content-Type", ""),
        "CONTENT_LENGTH": str(len(data)),
        "HTTP_CONTENT_ENCODING": handler.headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": handler.headers.get("Git-Protocol", ""),
        "REMOTE_USER": user,
        "GIT_CONFIG_NOSYSTEM": "1",
        "HOME": str(root),
    }
    out = subprocess.run(["git", "http-backend"], env=env, input=data, capture_output=True).stdout
    head, _, told = out.partition(b"\r\n\r\n")
    fields = dict(line.decode().split(": ", 1) for line in head.split(b"\r\n"))
    return int(fields.pop("Status", "200 OK").split(" ")[0]), fields, told


def respond(handler: BaseHTTPRequestHandler, status: int, fields: dict[str, str], told: bytes) -> None:
    """Give an answer."""
    handler.send_response(status)
    for name, value in fields.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(told)))
    handler.end_headers()
    handler.wfile.write(told)


def git(bare: Path, *args: str) -> str:
    """Run git in the bare repository behind it, as the forge would; return what it printed."""
    who = {f"GIT_{role}_{what}": "forge@example.test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    argv = ["git", f"--git-dir={bare}", *args]
    return subprocess.run(argv, capture_output=True, text=True, check=True, env={**os.environ, **who}).stdout.strip()
