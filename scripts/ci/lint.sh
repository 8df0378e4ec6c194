#!/bin/sh
# Reads the code for mistakes of form, types and import rules.
set -eu
cd "$(dirname "$0")/../.."
exec make check
