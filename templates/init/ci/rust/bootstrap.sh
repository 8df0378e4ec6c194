#!/bin/sh
# Makes a fresh checkout ready; `runner init` wrote it for Rust. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
exec cargo fetch
