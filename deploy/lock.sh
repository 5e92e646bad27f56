#!/bin/sh
# Writes requirements.lock anew from pyproject.toml: every package with its hashes, no address of any index.
# Not part of set-up: run it (with uv on the PATH, or UV=/path/to/uv) when a dependency changes, and commit the result.
set -eu
cd "$(dirname "$0")/.."
"${UV:-uv}" pip compile pyproject.toml --group dev --universal --python-version 3.11 \
    --generate-hashes --no-emit-index-url --no-annotate --no-header \
    --custom-compile-command deploy/lock.sh --quiet "$@" -o requirements.lock
