#!/bin/sh
# Lint the code. `runner init` wrote this for Go; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
    printf 'not formatted with gofmt:\n%s\n' "$unformatted" >&2
    exit 1
fi
exec go vet ./...
