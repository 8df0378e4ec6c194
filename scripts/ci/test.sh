#!/bin/sh
# Runs the tests.
set -eu
cd "$(dirname "$0")/../.."
exec make test
