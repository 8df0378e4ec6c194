#!/bin/sh
# Build the package. `runner init` wrote this for Java; edit it as you like.
set -eu
cd "$(dirname "$0")/../.."
if [ -f pom.xml ]; then
    maven=mvn
    [ ! -x ./mvnw ] || maven=./mvnw
    exec "$maven" -q -B -DskipTests package
fi
gradle=gradle
[ ! -x ./gradlew ] || gradle=./gradlew
exec "$gradle" -q --console=plain assemble
