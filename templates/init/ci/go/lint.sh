#!/bin/sh
# Reads the code for mistakes of form; `runner init` wrote it for Go. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
badly=$(gofmt -l .)
if [ -n "$badly" ]; then
    printf 'not formatted as gofmt does:\n%s\n' "$badly" >&2
    exit 1
fi
exec go vet ./...
