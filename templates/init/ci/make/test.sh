#!/bin/sh
# Runs the tests; `runner init` wrote it for the Makefile. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
exec make test
