#!/bin/sh
# Build the package. `runner init` wrote this for Python; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
if [ ! -f pyproject.toml ] && [ ! -f setup.py ]; then
    echo 'no pyproject.toml or setup.py: nothing to build' >&2
    exit 77
fi
exec .venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
