#!/bin/sh
# Prepare a fresh checkout. `runner init` wrote this for Go; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
exec go mod download
