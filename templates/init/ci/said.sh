#!/bin/sh
# @DOES@; `runner init` wrote it, @HOW@. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
@RUN@
