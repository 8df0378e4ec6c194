#!/bin/sh
# Runs the tests; `runner init` wrote it for Go. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
exec go test ./...
