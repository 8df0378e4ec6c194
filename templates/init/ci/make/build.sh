#!/bin/sh
# Build the package. `runner init` wrote this for the Makefile; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
exec make build
