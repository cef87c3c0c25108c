#!/bin/sh
# Make .venv ready, or do nothing if it is: setup.sh [--chosen] PYTHON
# With --chosen, a .venv made with another Python version is made again.
set -eu
cd "$(dirname "$0")/.."

chosen=
if [ "$1" = --chosen ]; then chosen=yes; shift; fi
python=$1
ready=.venv/.ready  # written last, so a set-up that did not finish has none

# What the set-up depends on, the folder too: the project is installed in place.
key=$(pwd; cat requirements/*.txt setup.py | cksum)

say() { echo "setup: $*"; }
fail() { say "$@" >&2; exit 1; }
version() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }
pip() { .venv/bin/python -m pip "$@"; }

has=$(version .venv/bin/python || true)
if [ -z "$has" ] || { [ -n "$chosen" ] && [ "$has" != "$(version "$python" || true)" ]; }; then
    rm -f "$ready"
elif [ "$(cat "$ready" 2>/dev/null)" = "$key" ]; then
    exit 0
fi

if [ ! -f "$ready" ]; then
    supported="fcos_d2 is set up with Python 3.10, 3.11, 3.12 or 3.13"
    found=$(version "$python") ||
        fail "cannot run '$python'; $supported: make setup PYTHON=python3.12"
    case $found in
        3.10.* | 3.11.* | 3.12.* | 3.13.*) ;;
        *) fail "'$python' is Python $found; $supported: make setup PYTHON=python3.12" ;;
    esac
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "'$python' cannot make virtual environments; on Debian or Ubuntu:" \
            "apt install python${found%.*}-venv"
    say "making .venv with Python $found"
    rm -rf .venv
    "$python" -m venv .venv
fi

rm -f "$ready"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

say "installing requirements/base.txt and test.txt (gigabytes the first time: takes minutes)"
# That detectron2's own requirements are not met is known: see base.txt.
pip install -qq --no-warn-conflicts -r requirements/base.txt -r requirements/test.txt

say "installing requirements/detectron2.txt"
# The wheel is tagged for Python 3.10, but what fcos_d2 needs of it is pure Python; pip puts a
# wheel for another version only into a folder it is told.
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
pip install -qq --upgrade --no-deps --require-hashes --only-binary=:all: \
    --python-version 3.10 --implementation cp --target "$site" -r requirements/detectron2.txt ||
    fail "no detectron2 for this machine; with a compiler, it can be built in a virtual" \
        "environment of your own: see the message of 'import fcos_d2'"

say "installing fcos_d2 in place"
pip install -qq --no-deps --no-build-isolation --editable .

echo "$key" > "$ready"
say "done"
