#!/bin/sh
# Prepare a fresh checkout. `runner init` wrote this for Python; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
[ -x .venv/bin/python ] || python3 -m venv .venv
pip() { .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }
for file in requirements.txt requirements-dev.txt; do
    [ ! -f "$file" ] || pip -r "$file"
done
if [ -f pyproject.toml ] || [ -f setup.py ]; then pip -e '@INSTALL@'; fi
