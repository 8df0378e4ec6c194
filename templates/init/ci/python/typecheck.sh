#!/bin/sh
# Check the types. `runner init` wrote this for Python; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH
if command -v mypy >/dev/null 2>&1 && grep -qsE '^\[(tool\.)?mypy\]' pyproject.toml mypy.ini .mypy.ini setup.cfg; then
    exec mypy
elif command -v pyright >/dev/null 2>&1; then
    exec pyright
fi
echo 'neither mypy nor pyright is set up: no types were checked' >&2
exit 77
