#!/usr/bin/env bash
# Sets up .venv, then runs the whole test suite: scripts/test.sh [what pytest takes]; `-m slow` runs the long tests.
# Tests on real MNIST look for it under $JAXVAE_DATA.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # two processes, of which torch would give each every core
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
