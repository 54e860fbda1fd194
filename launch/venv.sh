# Sourced by the other scripts: `use_venv FILE...` creates .venv, installs the requirements files
# into it whenever their content has changed, and puts its Python first on the PATH.

use_venv() {
  local python=${PYTHON:-python3} stamp=.venv/installed wanted
  wanted=$(cat "$@")
  if [ ! -x .venv/bin/python ]; then
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "error: $("$python" --version) found; 3.11 or newer is needed (set PYTHON=...)" >&2
      exit 2
    }
    "$python" -m venv .venv
  fi
  export PATH="$PWD/.venv/bin:$PATH"
  case "$(cat "$stamp" 2>/dev/null)" in *"$wanted"*) return ;; esac
  echo "installing into .venv: $*"
  local file arguments=()
  for file in "$@"; do arguments+=(-r "$file"); done
  python -m pip install --quiet --disable-pip-version-check "${arguments[@]}"
  cat "$@" > "$stamp"
}
