#!/bin/sh
# Reads the code for mistakes of form; `runner init` wrote it for the Makefile. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
exec make lint
