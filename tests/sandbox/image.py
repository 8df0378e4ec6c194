"""An image for tests, made of this machine's own programs, since no registry is asked: its shell, its tools and its Python.

`python -m tests.sandbox.image` makes it, prints its name with the digest, and fails where no container of it starts.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

NAME = "localhost/protocol-runner-tests"
# Those of a small Debian image; bash, git and python3 besides.
PROGRAMS = (
    *("sh", "bash", "env", "cat", "ls", "touch", "echo", "printf", "pwd", "true", "false", "sleep", "date", "yes", "rm", "mkdir"),
    *("cp", "mv", "ln", "stat", "test", "tr", "wc", "head", "tail", "sort", "grep", "sed", "find", "dirname", "readlink", "id"),
    *("setsid", "unshare", "getent", "kill", "git", "dd", "chmod", "mount", "ps", "seq", "tty", "stty", "mkfifo", "ulimit"),
)  # fmt: skip


@functools.cache
def make() -> str:
    """Import the image into podman, and return its name with the digest."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for folder in ("usr/bin", "usr/lib", "etc", "tmp", "proc", "sys", "dev", "run", "var/tmp"):
            _folder(tar, folder)
        for name in ("bin", "sbin", "lib", "lib64"):
            _link(tar, name, "usr/bin" if name.endswith("bin") else "usr/lib")
        _text(tar, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
        _text(tar, "etc/nsswitch.conf", "passwd: files\n")
        python = shutil.which("python3", path="/usr/bin") or "/usr/bin/python3"
        programs = [path for name in PROGRAMS if (path := shutil.which(name, path="/usr/bin:/bin"))]
        for path in (*programs, python):
            tar.add(Path(path).resolve(), f"usr/bin/{Path(path).name}")
        library = Path(_said(python, "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"))
        tar.add(library, str(library).lstrip("/"), filter=_without)
        _libraries(tar, [*programs, python, *map(str, library.glob("lib-dynload/*.so"))])
    content = hashlib.sha256(data.getvalue()).hexdigest()
    with (Path(tempfile.gettempdir()) / f"protocol-runner-image-{os.getuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers share it
        known = ["podman", "image", "inspect", "--format", "{{.Config.Labels.content}}", f"{NAME}:1"]
        if subprocess.run(known, capture_output=True, text=True).stdout.strip() != content:
            changes = ("ENV PATH=/usr/local/bin:/usr/bin:/bin", "ENV OF_IMAGE=yes", f"LABEL content={content}")
            options = [word for change in changes for word in ("--change", change)]
            subprocess.run(
                ["podman", "import", *options, "-", f"{NAME}:1"], input=data.getvalue(), capture_output=True, check=True
            )
        return f"{NAME}@{_said('podman', 'image', 'inspect', '--format', '{{.Digest}}', f'{NAME}:1')}"


def _libraries(tar: tarfile.TarFile, files: list[str]) -> None:
    """Add the libraries that files are linked with, by their sonames."""
    said = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    found = {Path(path) for path in re.findall(r"(/\S+\.so[\w.+-]*) \(0x", said)}
    found |= {Path(path) for path in Path(f"/usr/lib/{triplet}").glob("libnss_files*")}
    for path in sorted(found):
        where = f"usr/lib/{triplet}/{path.name}" if triplet and triplet in str(path) else f"usr/lib/{path.name}"
        tar.add(path.resolve(), where)


def _without(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = Path(entry.name).parts
    return None if {"__pycache__", "test", "idlelib", "tkinter", "ensurepip", "dist-packages"} & set(parts) else entry


def _folder(tar: tarfile.TarFile, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name.endswith("tmp") else 0o755
    tar.addfile(entry)


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _text(tar: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(text), 0o644
    tar.addfile(entry, io.BytesIO(text.encode()))


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def starts(image: str) -> str:
    """Return why podman starts no container of the image here, or nothing."""
    limits = (
        "--ulimit=nofile=1024:1024",
        "--ulimit=nproc=1024:1024",
    )  # as `runner.sandbox.container`, which asks for no more
    done = subprocess.run(
        ["podman", "run", "--rm", "--pull=never", "--network=none", *limits, image, "true"],
        capture_output=True,
        text=True,
    )
    return done.stderr.strip() if done.returncode else ""


if __name__ == "__main__":
    if shutil.which("podman") is None:
        sys.exit("podman is not installed")
    print(name := make())
    sys.exit(starts(name) or None)
