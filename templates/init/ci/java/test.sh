#!/bin/sh
# Run the tests. `runner init` wrote this for Java; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
if ! find . -path '*/src/test*' -type f ! -path './.git/*' | grep -q .; then
    echo 'error: no file in src/test: nothing was checked' >&2
    exit 1
fi
if [ -f pom.xml ]; then
    maven=mvn
    [ ! -x ./mvnw ] || maven=./mvnw
    exec "$maven" -q -B test
fi
gradle=gradle
[ ! -x ./gradlew ] || gradle=./gradlew
exec "$gradle" -q --console=plain test
