#!/usr/bin/env bash
# Sets up .venv, then runs the whole test suite: scripts/test.sh [what pytest takes]; `-m slow` runs the long tests.
# Tests on real MNIST look for it under $JAXVAE_DATA.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh" test
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # two processes, of which torch would give each every core
# Python keeps what it compiles, for the hundreds of processes that the tests start.
export PYTHONDONTWRITEBYTECODE=
# A checkpoint waits until it is on the disk: where memory serves as one, the tests' files are there.
if [ -w /dev/shm ] && [ "$(df --output=avail -k /dev/shm | tail -n 1)" -gt 2000000 ]; then
  export PYTEST_DEBUG_TEMPROOT=${PYTEST_DEBUG_TEMPROOT:-/dev/shm}
fi
# Each process has half of the files; the one that ends first takes over half of what the other has left.
exec .venv/bin/python -m pytest -n 2 --dist worksteal "$@"
