"""List folders that others write in at the same time: git, another runner, a person."""

from __future__ import annotations

import glob
import os
from pathlib import Path


def matching(folder: Path, *patterns: str) -> list[Path]:
    """Return the paths below a folder that match one of the patterns, dot files too, sorted; what goes away meanwhile is left out.

    A folder that is not there, or may not be read, holds nothing. `Path.glob` ends with FileNotFoundError, before Python 3.13, where
    one goes away between being seen and being read. A path may be gone when it is used. `**` stands for any number of folders, links
    to folders too; a name that is no pattern has to be escaped with `glob.escape`.

    Raises:
        OSError: the folder is there and could not be read: a bad disk, too many open files.
    """
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return sorted(
        {
            folder / name
            for pattern in patterns
            for name in glob.iglob(pattern, root_dir=folder, recursive=True, include_hidden=True)
        }
    )
