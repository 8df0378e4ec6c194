#!/bin/sh
# Checks the types; `runner init` wrote it for Go. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
exec go test -run=NONE ./...
