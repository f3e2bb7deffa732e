#!/usr/bin/env bash
# Sets up .venv, then trains: scripts/train.sh [what `jaxvae train` takes; --help lists it]
set -euo pipefail
here=$PWD
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" ""
venv=$PWD/.venv
cd "$here"
exec "$venv/bin/jaxvae" train "$@"
