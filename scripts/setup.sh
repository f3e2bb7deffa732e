# Sourced by train.sh and test.sh: makes .venv with the project in it, once. $1: the extras to install, e.g. "test".
# A stamp in .venv tells that it is whole and up to date, so that a second call costs nothing.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
extras=${1:-}
stamp=.venv/.ready-$(cat pyproject.toml constraints.txt | cksum | tr ' ' '-')

if [ ! -e "$stamp-$extras" ] && [ ! -e "$stamp-test" ] || ! .venv/bin/python -c '' 2>/dev/null; then
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then # none yet, or one left half-made
    python=
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
      if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$candidate; break; fi
    done
    if [ -z "$python" ]; then
      echo "setup: Python 3.11 or later is needed and none was found; install one, or name it in PYTHON." >&2
      exit 1
    fi
    rm -rf .venv
    "$python" -m venv .venv
  fi
  echo "setup: installing the project and what it needs into .venv (minutes, the first time only)" >&2
  pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)
  project=(-c constraints.txt -e ".${extras:+[$extras]}")
  # uv takes a quarter of pip's time; pip installs what uv, which has settings of its own, does not find.
  uv=(.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python)
  if ! { "${pip[@]}" uv && "${uv[@]}" "${project[@]}"; } 2>/dev/null && ! "${pip[@]}" "${project[@]}"; then
    echo "setup: pip could not install the project (see above); the next call tries again." >&2
    exit 1
  fi
  touch "$stamp-$extras"
fi
