#!/bin/sh
# Run the tests. `runner init` wrote this for Python; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH
python=$(command -v python || command -v python3) || {
    echo 'error: Python is not installed: nothing was checked' >&2
    exit 1
}
if "$python" -c 'import pytest' 2>/dev/null; then exec "$python" -m pytest; fi
if command -v pytest >/dev/null 2>&1; then exec pytest; fi
# Before Python 3.12, `python -m unittest` passes if it finds no test.
exec "$python" -c '
import sys, unittest
result = unittest.main(module=None, argv=["unittest", "discover"], exit=False).result
if not result.testsRun:
    sys.exit("error: pytest is not installed, and unittest finds no test: nothing was checked")
sys.exit(not result.wasSuccessful())'
