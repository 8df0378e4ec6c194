#!/bin/sh
# Makes a fresh checkout ready; `runner init` wrote it for the Makefile. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
exec make bootstrap
