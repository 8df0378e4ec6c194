#!/bin/sh
# @DOES@. `runner init` wrote this @HOW@; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
@RUN@
