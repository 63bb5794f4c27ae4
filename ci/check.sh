#!/bin/sh
# Vets and tests the Dagger module without an engine: stand-ins take the place of the code that the
# engine generates, and their go.mod has the library that they are made of (testdata/standin).
set -eu
cd "$(dirname "$0")"
overlay=$(mktemp)
trap 'rm -f "$overlay"' EXIT
here=$(pwd)
mkdir -p internal/dagger # go vet asks for the folder
printf '{"Replace": {"%s": "%s", "%s": "%s"}}' \
  "$here/dagger.gen.go" "$here/testdata/standin/dagger.gen.go.txt" \
  "$here/internal/dagger/dagger.gen.go" "$here/testdata/standin/internal_dagger.go.txt" >"$overlay"
go vet -modfile=testdata/standin/go.mod -tags standin -overlay "$overlay" ./...
go test -modfile=testdata/standin/go.mod -count=1 -tags standin -overlay "$overlay" ./...
