#!/usr/bin/env bash
# Runs MkDocs over this repository's docs/, after installing it from PyPI into the cache folder the first time:
#   mkdocs.sh build --strict
set -euo pipefail
cd "$(dirname "$0")"
python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "the site needs Python 3.11 or newer; python3 is $python" >&2
  exit 1
}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/crossbill
packages=$cache/mkdocs-python$python-$(sha256sum requirements.txt | cut -c-12)
mkdir -p "$cache"
# As in rehearsal/setup: a lock lets one process install, and a rename makes the result appear at once.
exec 9>"$packages.lock"
flock 9
if [ ! -e "$packages" ]; then
  echo "installing MkDocs from PyPI into $packages, once: 20 MB, less than a minute" >&2
  rm -rf "$packages.part"
  python3 -m pip install --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes \
    --only-binary :all: --progress-bar on --quiet --target "$packages.part" --requirement requirements.txt >&2 || {
    echo 'is PyPI reachable, and is python3-pip installed?' >&2
    exit 1
  }
  mv "$packages.part" "$packages"
fi
exec 9>&-
# MkDocs warns of plans for its next major version, which is not used here.
export PYTHONPATH=$packages PYTHONDONTWRITEBYTECODE=1 NO_MKDOCS_2_WARNING=1
exec python3 -m mkdocs "$@"
