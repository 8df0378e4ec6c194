"""Files in, one commit out: snapshots, transactions, refs, locks, worktrees, the workspace, remotes."""
