#!/bin/sh
# Lint the code. `runner init` wrote this for Python; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH
if command -v ruff >/dev/null 2>&1; then
    exec ruff check .
elif command -v flake8 >/dev/null 2>&1; then
    exec flake8
fi
echo 'neither ruff nor flake8 is installed: nothing was linted' >&2
exit 77
