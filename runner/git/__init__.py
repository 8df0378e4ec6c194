"""git, as this project uses it: its own plumbing, sealed, values in and bytes or ids out. The only package that starts git.

Two profiles. *Reading* (and writing objects and refs) starts from an empty environment, knows no person's configuration but
`safe.directory`, and neutralises whatever in a repository's configuration runs code. *Transport* and *identity* use the
person's own configuration (credential helpers, ssh command, URL rewrites, name, signing key) and never the repository's.

Single acts are spawned; frequent commands are held open: `cat-file --batch-command`, `update-ref
--stdin`. Loose objects are written here. A ref moves only by compare-and-swap. Nothing here knows about protocols.

What others use is named here; the modules are the package's own.
"""

from runner.git.objects import BLOB, EXECUTABLE, LINK, SUBMODULE, TREE, Commit, Ident, Tree, TreeEntry, split_signature
from runner.git.process import GitError, Options, TooSlowError, git_error, is_full
from runner.git.repository import TIMED_OUT, Git, Worktree

__all__ = [
    "BLOB",
    "EXECUTABLE",
    "LINK",
    "SUBMODULE",
    "TIMED_OUT",
    "TREE",
    "Commit",
    "Git",
    "GitError",
    "Ident",
    "Options",
    "TooSlowError",
    "Tree",
    "TreeEntry",
    "Worktree",
    "git_error",
    "is_full",
    "split_signature",
]
