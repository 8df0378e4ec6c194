#!/bin/sh
# Makes a fresh checkout ready; `runner init` wrote it for Go. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
exec go mod download
