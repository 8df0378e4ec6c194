#!/bin/sh
# Tells the forge how a CI ended that is not the forge's own: scripts/ci/report.sh success|failure
# The commit is CI_COMMIT, else HEAD; the status is called RUNNER_CI_NAME, else `ci`; CI_URL is where the log is read.
# `runner sync` reads it there. The token (GITHUB_TOKEN or GITLAB_TOKEN) may set commit statuses; nothing else is needed.
set -eu
forge=@FORGE@
api=@API@
project=@PROJECT@

die() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

case ${1:-} in
success) gitlab=success ;;
failure) gitlab=failed ;;
*) die 'usage: scripts/ci/report.sh success|failure' ;;
esac
state=$1
commit=${CI_COMMIT:-$(git rev-parse HEAD)}
case $commit in '' | *[!0-9a-f]*) die 'CI_COMMIT is no commit' ;; esac
name=${RUNNER_CI_NAME:-ci}
case $name in *[!A-Za-z0-9/_.-]*) die 'RUNNER_CI_NAME may hold letters, digits and /_.-' ;; esac
url=${CI_URL:-}
case $url in *[!A-Za-z0-9:/?=%._~#-]*) die 'CI_URL is no plain address' ;; esac

# The token goes in by stdin: an argument could be read by every process of the machine.
case $forge in
github)
    token=${GITHUB_TOKEN:-${GH_TOKEN:-}}
    [ -n "$token" ] || die 'GITHUB_TOKEN is not set'
    printf 'header = "Authorization: Bearer %s"\n' "$token" | curl -sSf --retry 3 --max-time 30 --config - -o /dev/null \
        -H 'Accept: application/vnd.github+json' -X POST \
        -d "{\"state\": \"$state\", \"context\": \"$name\"${url:+, \"target_url\": \"$url\"}}" \
        "$api/repos/$project/statuses/$commit"
    ;;
gitlab)
    token=${GITLAB_TOKEN:-}
    [ -n "$token" ] || die 'GITLAB_TOKEN is not set'
    printf 'header = "PRIVATE-TOKEN: %s"\n' "$token" | curl -sSf --retry 3 --max-time 30 --config - -o /dev/null \
        -H 'Content-Type: application/json' -X POST \
        -d "{\"state\": \"$gitlab\", \"name\": \"$name\"${url:+, \"target_url\": \"$url\"}}" \
        "$api/api/v4/projects/$project/statuses/$commit"
    ;;
none)
    echo "no forge is known to this file, so nobody was told: $state"
    exit 0
    ;;
esac
echo "told $forge: $name $state on $commit"
