#!/bin/sh
# Run the tests. `runner init` wrote this for Go; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
exec go test ./...
