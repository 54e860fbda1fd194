# Sourced by the other scripts: `use_venv FILE...` creates .venv, installs the requirements files
# into it whenever their content has changed, and puts its Python first on the PATH.

# Refuse what the packages do not exist for: pip would do so after minutes, naming one of them.
check_python() {
  "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || {
    echo "error: $("$1" --version) found; 3.11, 3.12 or 3.13 is needed (remove .venv if it has" \
      "another, and set PYTHON=...)" >&2
    exit 2
  }
  case "$(uname -sm)" in
    'Linux x86_64' | 'Linux aarch64' | 'Darwin arm64') ;;
    *)
      echo "error: $(uname -sm) found; JAX and TensorFlow have packages for Linux on x86_64 and" \
        "aarch64 and for macOS on arm64; on Windows, use WSL" >&2
      exit 2
      ;;
  esac
}

use_venv() {
  local python=${PYTHON:-python3} stamp=.venv/installed wanted
  wanted=$(cat "$@")
  [ ! -x .venv/bin/python ] || python=.venv/bin/python
  case "$(cat "$stamp" 2>/dev/null)" in
    *"$wanted"*) ;;
    *) install_into_venv "$python" "$@" || return ;;  # the caller may not have set -e
  esac
  export PATH="$PWD/.venv/bin:$PATH"
}

install_into_venv() {
  local python=$1 file arguments=()
  shift
  check_python "$python"
  [ -x .venv/bin/python ] || "$python" -m venv .venv || return
  # There is no pip if making .venv was cut short, or Debian's python3-venv was missing.
  .venv/bin/python -c 'import pip' 2> /dev/null || .venv/bin/python -m ensurepip > /dev/null || {
    echo "error: .venv has no pip; on Debian and Ubuntu, install python3-venv; or remove .venv" >&2
    return 1
  }
  echo "installing into .venv: $*"
  for file in "$@"; do arguments+=(-r "$file"); done
  # Python compiles what it imports; pip would compile everything, for most of a minute.
  .venv/bin/python -m pip install --quiet --no-compile --disable-pip-version-check "${arguments[@]}" ||
    return
  cat "$@" > .venv/installed
}
