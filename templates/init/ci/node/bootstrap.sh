#!/bin/sh
# Prepare a fresh checkout. `runner init` wrote this for Node; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
if [ -f pnpm-lock.yaml ]; then exec pnpm install --frozen-lockfile; fi
if [ -f yarn.lock ]; then exec yarn install --frozen-lockfile; fi
if [ -f package-lock.json ] || [ -f npm-shrinkwrap.json ]; then exec npm ci --no-audit --no-fund; fi
exec npm install --no-audit --no-fund
