#!/bin/sh
# Run the tests. `runner init` wrote this for Go; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
if ! go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./... | grep -q .; then
    echo 'error: no package has a test: nothing was checked' >&2
    exit 1
fi
exec go test ./...
