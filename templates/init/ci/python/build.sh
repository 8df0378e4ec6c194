#!/bin/sh
# Builds what is shipped; `runner init` wrote it for Python. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
if [ ! -f pyproject.toml ] && [ ! -f setup.py ]; then
    echo 'there is no pyproject.toml or setup.py: nothing is built'
    exit 0
fi
exec .venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
