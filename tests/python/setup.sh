#!/usr/bin/env bash
# Makes a Python environment with gRPC in target/tools/python, for the test that
# calls the vault with tools that are not its own. Prints the path of its
# interpreter. Does nothing when the environment is there.
set -euo pipefail
cd "$(dirname "$0")/../.."

home="${CARGO_TARGET_DIR:-target}/tools/python"
requirements=tests/python/requirements.txt
if ! cmp -s "$requirements" "$home/requirements.txt"; then
    if ! command -v python3 >/dev/null || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        echo "Python 3.10 or newer with venv is needed: install python3 and python3-venv." >&2
        exit 1
    fi
    rm -rf "$home"
    python3 -m venv "$home"
    "$home/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" >&2
    cp "$requirements" "$home/requirements.txt"
fi
realpath -s "$home/bin/python"
