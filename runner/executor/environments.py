"""Find the project's environment, which the sandbox adds to the commit's files (design §6).

A virtual environment, node_modules and what a build wrote are ignored by git, so a workspace lacks them, and they hold the checkout's
path. Therefore the workspace appears at that path, and such folders are bound into it, read-only. What a step could have
put there is never taken for them: a commit can bring tracked files and links into a checkout, but no ignored ones.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runner import beneath
from runner.errors import UsageError
from runner.git import Git, TreeEntry
from runner.lines import pattern
from runner.protocol import paths
from runner.protocol.ids import digest
from runner.sandbox import network
from runner.sandbox.mounts import HOME
from runner.sandbox.process import Place
from runner.store.project import Project
from runner.store.workspace import Workspace
from runner.trust import trusted_config

# Folders of environments, by what makes one of them sure.
KINDS = {".venv": "pyvenv.cfg", "venv": "pyvenv.cfg", "node_modules": "", "vendor/bundle": "ruby"}
BUILDS = {"target": "CACHEDIR.TAG"}  # that a build writes into, cargo's: by what makes one of them sure
_SIGNS = ("pyvenv.cfg", "conda-meta")  # of an environment that lies elsewhere, and is on PATH
_CREDENTIALS = pattern(
    r"\.env(\..+)?|[._]netrc|\.npmrc|\.pypirc|\.yarnrc\.yml|pip\.(conf|ini)|\.condarc|\.git-credentials|credentials(\.(json|toml|ya?ml|ini))?"
)
_PACKAGES = ("node_modules", "site-packages")  # what an index published; in there nobody looks for credentials
_LOOKED_AT = 500  # folders of one that is shown, the nearest first
# Variables of certificates, proxies and package indexes: with them a setup reaches what the person's shell does.
_CERTIFICATES = pattern(
    r"SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE|NODE_EXTRA_CA_CERTS|GIT_SSL_CAINFO|PIP_CERT|CARGO_HTTP_CAINFO|npm_config_cafile",
    re.I,
)
_SETTINGS = pattern(
    rf"{_CERTIFICATES.pattern}|(https?|all|no|npm_config_(https_)?)_?proxy|NODE_USE_ENV_PROXY|npm_config_(registry|noproxy)"
    r"|PIP_((EXTRA_)?INDEX_URL|TRUSTED_HOST|FIND_LINKS)|UV_((DEFAULT_|EXTRA_)?INDEX(_URL)?|FIND_LINKS|NATIVE_TLS|SYSTEM_CERTS)"
    r"|YARN_NPM_REGISTRY_SERVER|GO(PROXY|PRIVATE|NOPROXY|SUMDB|NOSUMDB)|RUSTUP_DIST_SERVER",
    re.I,
)
MADE = "made"  # the file that says that an environment is whole, with the names of what it has in `work`
UNUSED = 30 * 86_400.0  # seconds
_CACHES = (".pyc", ".pyo", ".o", ".log", ".swp", "~", ".DS_Store", ".tsbuildinfo", ".coverage")
CACHE = ".cache"  # in HOME; programs write there
MOST = 1_000_000  # bytes of a generated file
_STRING = r'(?P<text>"(?:[^"\\]|\\.)*")'
_COMMENTS, _COMMAS = pattern(_STRING + r"|//[^\n]*|/\*.*?\*/", re.S), pattern(_STRING + r"|,(?P<end>\s*[]}])")
_SYSTEM = ("/", "/dev", "/etc", "/opt", "/proc", "/run", "/sys", "/tmp", "/usr", "/var/tmp")


class ProjectEnvironment(NamedTuple):
    """What commands in the sandbox are shown: folders, and files that are copied; by their path below the workspace.

    `top`: the path at which the workspace appears; None for its own. `home`: a folder with the content of their HOME. `outside`:
    folders and files whose content the commit only names, by path. `builds`: folders that commands get a copy of. `image`: of the
    containers that they run in, with its digest.
    """

    top: Path | None
    folders: Mapping[str, Path]
    generated: Mapping[str, Path]
    home: Path | None = None
    outside: Mapping[str, Path] = {}
    builds: Mapping[str, Path] = {}
    image: str = ""

    def programs(self, work: Path) -> list[str]:
        """Return the folders of programs of its virtual environment. `work`: the workspace, or the export, as it is on the machine."""
        base = self.top or work
        return [str(base / name / "bin") for name, at in self.folders.items() if (at / "pyvenv.cfg").is_file()]

    @property
    def name(self) -> str | None:
        """What the record calls it; None where there is nothing of it."""
        found = sorted((*self.folders, *self.builds))
        own = f"made {self.home.parent.name[:12]}" if self.home else f"found {', '.join(found)}" if found else ""
        return "; ".join(filter(None, (self.image and f"image {self.image}", own))) or None

    def at(self, git: Git, commit: str) -> ProjectEnvironment:
        """Return it without what a commit has itself."""
        taken = {
            name
            for name in (*self.folders, *self.generated, *self.builds)
            if git.object(f"{commit}:{name}") is not None
        }
        return self._replace(
            folders={name: at for name, at in self.folders.items() if name not in taken},
            generated={name: at for name, at in self.generated.items() if name not in taken},
            builds={name: at for name, at in self.builds.items() if name not in taken},
        )

    def place(self, space: Workspace) -> Place:
        """Return what the sandbox shows of it."""
        shown = {HOME / one.name: one for one in _in(self.home) if _is_folder(one) and one.name != CACHE}
        for base in (self.top,) if self.top else (space.work, space.export):
            for name, at in self.folders.items():
                is_made = self.home is not None and at.is_relative_to(self.home.parent)  # without any credentials
                hidden = () if is_made else _secret(at)
                shown |= {base / name: at, **{base / name / file: space.empty for file in hidden}}
            shown |= {base / name: at for name, at in self.outside.items()}
        there = {space.work: self.top, space.export: self.top} if self.top else {}
        return Place({**there, space.home: HOME, space.check_home: HOME}, shown)

    def fill(self, home: Path) -> None:
        """Put the files of its HOME, which may be written there, into an empty HOME."""
        for one in _in(self.home):
            with contextlib.suppress(OSError):  # the setup locked it, or the HOME has it already
                if not _is_folder(one):
                    shutil.copy2(one, home / one.name, follow_symlinks=False)


def image_of(project: Project) -> str | None:
    """Return the image of containers: that of config.yaml, else that of the trusted branch's devcontainer.json; None without one.

    Raises:
        UsageError: devcontainer.json is no JSON with comments, or names none.
    """
    if project.config.workspace.image:
        return project.config.workspace.image
    for name in (".devcontainer/devcontainer.json", ".devcontainer.json"):
        if (data := project.trusted.blob(project.git, name)) is None:
            continue
        bare = _COMMENTS.sub(lambda found: found["text"] or "", data.decode("utf-8", "replace"))
        try:
            found = json.loads(_COMMAS.sub(lambda found: found["text"] or found["end"], bare)).get("image")
        except (ValueError, AttributeError, RecursionError):
            found = None
        if isinstance(found, str) and re.fullmatch(r"[\w][\w.:/@-]*", found, re.ASCII):
            return found
        raise UsageError(
            "no `image` for containers is named there",
            f"{name} on {project.trusted.branch}",
            f"build the image yourself, and name it in {paths.CONFIG}: `workspace: {{image: NAME@sha256:DIGEST}}`",
        )
    return None


def find(
    project: Project, space: Workspace, tools: Iterable[Path] = (), *, in_image: bool = False
) -> ProjectEnvironment:
    """Return the environment in the main worktree. Where a setup makes one, nothing is looked for but what `share` names.

    `tools`: installations on PATH; environments among them that lie in the checkout are shown too. `in_image`: whether commands run
    in containers, where programs of this machine do not run.
    """
    top, config = project.git.main_worktree(), project.config.workspace
    if top is None:
        return ProjectEnvironment(None, {}, {})
    policy = trusted_config.of(project).policy
    said = policy.content.environment if policy else None
    # In CI, where other jobs may have made what lies there, only the policy can allow what nobody named.
    looks = not config.setup and not in_image and (said == "found" or (said is None and "ci" not in project.options))
    names = [name for name, sign in KINDS.items() if looks and os.path.exists(top / name / sign)]
    tools = [one for one in tools if one.is_relative_to(top) and any(os.path.exists(one / sign) for sign in _SIGNS)]
    names += [str(one.relative_to(top)) for one in tools if looks]
    names += () if said == "made" else config.share
    names = [name for name in dict.fromkeys(names) if _is_plain(top, name) and _is_folder(top / name)]
    names = [name for name in names if not any(name.startswith(f"{other}/") for other in names)]
    builds = [name for name, sign in BUILDS.items() if looks and name not in names and (top / name / sign).is_file()]
    builds = [name for name in builds if _is_plain(top, name)]
    named = [
        *(_version_files(project) if looks or in_image else ()),
        *(() if said == "made" else _ignored(project, top)),
    ]
    files = [name for name in dict.fromkeys(named) if _is_plain(top, name) and _is_file(top / name)]
    files = [name for name in files if not any(name.startswith(f"{other}/") for other in (*names, *KINDS))]
    free = _untracked(project, [*names, *files, *builds])
    is_in_place = not space.root.is_relative_to(top) and not any(Path(name).is_relative_to(top) for name in _SYSTEM)
    return ProjectEnvironment(
        top if is_in_place else None,
        {name: top / name for name in names if name in free},
        {name: top / name for name in files if name in free},
        builds={name: top / name for name in builds if name in free},
    )


def left_out(project: Project) -> list[str]:
    """Return the ignored files beside tracked ones, below the checkout's top, that no step is shown; caches are no such files.

    The .gitignore by which a cache such as .pytest_cache ignores itself is among them.
    """
    top, git = project.git.main_worktree(), project.git
    if top is None:
        return []
    given = ("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory")
    out = git.run(*given, work_tree=top, index=git.common_dir / "index")
    shown = {*_version_files(project), *_ignored(project, top), *project.config.workspace.share}
    found = [name for name in os.fsdecode(out).split("\0")[:-1] if "/" in name.rstrip("/") and name not in shown]
    caches = {str(Path(name).parent) for name in found if name.endswith("/.gitignore")}
    return [
        name
        for name in found
        if not name.endswith("/") and not name.endswith(_CACHES) and not _CREDENTIALS.fullmatch(Path(name).name)
        if str(Path(name).parent) not in caches
    ]


def with_made(own: ProjectEnvironment, folder: Path) -> ProjectEnvironment:
    """Return the environment with what a setup made: `folder` holds its HOME, and in `work` what it left beside the commit's files.

    Raises:
        ValueError: it is not whole.
    """
    names = json.loads((folder / MADE).read_bytes())
    work = {name: folder / "work" / name for name in names}
    return own._replace(
        folders={**{name: at for name, at in work.items() if _is_folder(at)}, **own.folders},
        generated={name: at for name, at in work.items() if not _is_folder(at)},
        home=folder / "home",
    )


def is_whole(folder: Path) -> bool:
    """Return whether an environment is there, as its setup left it."""
    try:
        return isinstance(json.loads((folder / MADE).read_bytes()), list)
    except (OSError, ValueError):
        return False


def manifests(project: Project, commit: str) -> dict[str, TreeEntry]:
    """Return the files of a commit that the setup reads, by path."""
    config = project.config.workspace
    found = project.git.files(commit, *config.read_by_setup)
    return {path: entry for path, entry in found.items() if config.is_read_by_setup(path)}


def made_in(project: Project, files: Mapping[str, TreeEntry], top: Path | None, image: str = "") -> Path:
    """Return the folder of what the setup makes of files that it reads: another one where anything differs that it depends on.

    `image`: of the container that it runs in.
    """
    config = project.config.workspace
    told: list[object] = [
        config.setup,
        config.network,
        {path: one.oid for path, one in files.items()},
        str(top),
        os.uname().machine,
    ]
    told += [config.env] if config.env else []
    told += [image] if image else []
    return shared_folder(project) / digest(json.dumps(told, sort_keys=True).encode()).partition(":")[2][:32]


def shared_folder(project: Project) -> Path:
    """Return the folder of the environments that are made for steps and kept for all protocols."""
    return project.dirs.own / "environments"


def for_setup(environ: Mapping[str, str], named: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return the variables that a setup gets of a person's: `named`, and settings; and the settings left out for a user or token."""
    settings = {name: value for name, value in environ.items() if _SETTINGS.fullmatch(name)}
    private = [name for name, value in settings.items() if re.search("[@?]", value) and name not in named]
    given = {name: environ[name] for name in (*settings, *named) if name in environ and name not in private}
    return given, sorted(private)


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a person's variables that name proxies. In the sandbox they are only the runner's, which asks them for others."""
    return {name: value for name, value in environ.items() if network.PROXIES.fullmatch(name)}


def certificates(env: Mapping[str, str]) -> list[Path]:
    """Return the files and folders of certificates that variables name."""
    found = [Path(value) for name, value in env.items() if _CERTIFICATES.fullmatch(name)]
    return [path for path in found if path.is_absolute() and path.exists()]


def holding(folder: Path, forms: Mapping[str, str]) -> tuple[str, str] | None:
    """Return a file below a folder that holds one of the texts, with the name that the text has in `forms`; None without one."""
    texts = {form.encode("utf-8", "surrogateescape"): name for form, name in forms.items()}
    for root, _, files in os.walk(folder):
        for file in files:
            path = os.path.join(root, file)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                data: bytes | mmap.mmap = os.fsencode(os.readlink(path))
            elif stat.S_ISREG(status.st_mode) and status.st_size:
                try:
                    with open(path, "rb") as handle:
                        data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
                except PermissionError:  # no step can read it either
                    continue
            else:
                continue
            for text, name in texts.items():
                if data.find(text) >= 0:
                    return name, os.path.relpath(path, folder)
    return None


@contextlib.contextmanager
def making(project: Project, folder: Path) -> Iterator[Path]:
    """Give a folder whose content is that of `folder` afterwards, unless another runner made it meanwhile."""
    made = folder.with_name(f"making-{folder.name}-{project.env.pid}")
    beneath.remove(folder)
    try:
        beneath.remove(made)
        made.mkdir(parents=True)
        yield made
        try:
            os.rename(made, folder)
        except OSError:
            if not is_whole(folder):
                raise
    finally:
        beneath.remove(made)


def unused(project: Project) -> list[Path]:
    """Return the folders of environments that no step has used for `UNUSED`, and of those that a killed runner had started."""
    found, now = [], project.env.now()
    for one in _in(shared_folder(project)):
        with contextlib.suppress(OSError):
            made = one / MADE
            is_begun = one.name.startswith("making-") and Path(f"/proc/{one.name.rpartition('-')[2]}").exists()
            if not is_begun and (not made.exists() or now - made.stat().st_mtime > UNUSED):
                found.append(one)
    return found


def _in(folder: Path | None) -> list[Path]:
    return sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []


def _is_plain(top: Path, name: str) -> bool:
    """Return whether no link is on the way: a branch that is checked out there may have put one."""
    return os.path.realpath(top / name) == os.path.join(top, name)


def _untracked(project: Project, names: list[str]) -> set[str]:
    """Return the names below which the branch that is checked out in the main worktree has no file."""
    if not names:
        return set()
    git = project.git
    files = os.fsdecode(git.run("ls-files", "-z", "--", *names, index=git.common_dir / "index")).split("\0")
    return {name for name in names if not any(path == name or path.startswith(f"{name}/") for path in files)}


def _ignored(project: Project, top: Path) -> list[str]:
    """Return the files that git ignores and `workspace.generated` names."""
    if not (globs := project.config.workspace.generated):
        return []
    wanted = [f":(glob){one}" for one in globs]
    given = ("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--", *wanted)
    git = project.git
    out = git.run(*given, work_tree=top, index=git.common_dir / "index", env={"GIT_LITERAL_PATHSPECS": "0"})
    return os.fsdecode(out).split("\0")[:-1]


def _secret(folder: Path) -> list[str]:
    """Return the files that hold credentials, by their paths in the folder."""
    found, folders = list[str](), [""]
    for inner in folders:  # grows
        with contextlib.suppress(OSError), os.scandir(folder / inner) as entries:
            for one in sorted(entries, key=lambda one: one.name):
                name = os.path.join(inner, one.name)
                if one.is_file(follow_symlinks=False) and _CREDENTIALS.fullmatch(one.name):
                    found.append(name)
                elif folder.name in _PACKAGES or one.name in _PACKAGES or len(folders) >= _LOOKED_AT:
                    continue
                elif one.is_dir(follow_symlinks=False):
                    folders.append(name)
    return found


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path) and not path.is_symlink()


def _is_file(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    readable = os.access(path, os.R_OK)
    return (
        stat.S_ISREG(status.st_mode) and status.st_size <= MOST and not _CREDENTIALS.fullmatch(path.name) and readable
    )


def _version_files(project: Project) -> Iterator[str]:
    data = project.trusted.blob(project.git, "pyproject.toml")
    if not data:
        return
    import tomllib  # here, because few steps read a pyproject.toml

    try:
        tool = tomllib.loads(data.decode()).get("tool", {})
    except ValueError:
        return
    for path in (
        ("hatch", "build", "hooks", "vcs", "version-file"),
        ("setuptools_scm", "version_file"),
        ("setuptools_scm", "write_to"),
        ("pdm", "version", "write_to"),
    ):
        found: Any = tool
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, str) and not os.path.isabs(found) and ".git" not in Path(found).parts:
            yield os.path.normpath(found)
