#!/bin/sh
# Makes a virtual environment with the locked dependencies: deploy/venv.sh PYTHON DIRECTORY
# Installing from the lock needs no resolver and builds nothing, so it takes seconds, not minutes.
set -eu
python=$1
venv=$2

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $("$python" --version) is too old: Python 3.11 or later is needed" >&2
    echo "hint: make PYTHON=/path/to/python3.12 ..." >&2
    exit 2
}

# Debian and Ubuntu ship Python without what `venv` needs.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "error: $python cannot make virtual environments: its venv module is not installed" >&2
        echo "hint: ask an administrator for: apt-get install python3-venv" >&2
        exit 2
    fi
    version=$("$python" -c 'import sys; print(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")')
    "$(dirname "$0")/system-packages.sh" --packages "$version"
fi

# An environment of another Python, or one that was only half made, is made again.
"$python" -m venv --clear "$venv"
# Quiet twice: warnings about mirrors that lack a package help nobody here, errors still show.
"$venv/bin/python" -m pip install -qq --no-deps --require-hashes --only-binary :all: -r requirements.lock
