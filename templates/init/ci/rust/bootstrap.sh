#!/bin/sh
# Prepare a fresh checkout. `runner init` wrote this for Rust; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
exec cargo fetch
