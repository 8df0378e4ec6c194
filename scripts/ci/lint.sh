#!/bin/sh
# Check formatting, lint, types and import rules.
set -eu
cd "$(dirname "$0")/../.."
exec make check
