#!/bin/sh
# Checks the types; `runner init` wrote it for Python. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH
if command -v mypy >/dev/null 2>&1 && grep -qsE '^\[(tool\.)?mypy\]' pyproject.toml mypy.ini .mypy.ini setup.cfg; then
    exec mypy
elif command -v pyright >/dev/null 2>&1; then
    exec pyright
fi
echo 'no type checker is set up (mypy or pyright): no types were checked'
