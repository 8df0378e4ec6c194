#!/bin/sh
# Checks the types; `runner init` wrote it for Java. It is yours to change.
set -eu
cd "$(dirname "$0")/../.."
if [ -f pom.xml ]; then
    maven=mvn
    [ ! -x ./mvnw ] || maven=./mvnw
    exec "$maven" -q -B test-compile
fi
gradle=gradle
[ ! -x ./gradlew ] || gradle=./gradlew
exec "$gradle" -q --console=plain testClasses
