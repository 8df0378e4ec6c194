#!/bin/sh
# Build the package.
set -eu
cd "$(dirname "$0")/../.."
exec make build
