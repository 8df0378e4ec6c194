#!/bin/sh
# Run the tests. `runner init` wrote this for Python; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH
if command -v pytest >/dev/null 2>&1; then exec pytest; fi
python=$(command -v python || command -v python3)
exec "$python" -m unittest discover
