#!/bin/sh
# Run the tests.
set -eu
cd "$(dirname "$0")/../.."
exec make test
