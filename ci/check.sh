#!/bin/sh
# Vets and tests the Dagger module without an engine: stand-ins take the place of the code that the
# engine generates (testdata/standin).
set -eu
cd "$(dirname "$0")"
overlay=$(mktemp)
trap 'rm -f "$overlay"' EXIT
here=$(pwd)
mkdir -p internal/dagger # go vet asks for the folder
printf '{"Replace": {"%s": "%s", "%s": "%s"}}' \
  "$here/dagger.gen.go" "$here/testdata/standin/dagger.gen.go.txt" \
  "$here/internal/dagger/dagger.gen.go" "$here/testdata/standin/internal_dagger.go.txt" >"$overlay"
go vet -overlay "$overlay" ./...
go test -count=1 -overlay "$overlay" ./...
