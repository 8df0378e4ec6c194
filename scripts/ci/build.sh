#!/bin/sh
# Builds what is shipped.
set -eu
cd "$(dirname "$0")/../.."
exec make build
