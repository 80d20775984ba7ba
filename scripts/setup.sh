#!/bin/sh
# Makes .venv with all that the toolkit needs: `scripts/setup.sh EXTRAS`. Does nothing where that is done already.
set -eu
cd "$(dirname "$0")/.."
extras=${1:-test}
stop() { echo "setup: $1" >&2; exit 1; }

# done already? the stamp holds the extras and the requirements that were installed
stamp=.venv/installed
wanted=$(cksum < pyproject.toml)
if [ -f "$stamp" ] && [ "$(sed -n 1p "$stamp")" = "$wanted" ]; then
    missing=
    for extra in $(echo "$extras" | tr ',' ' '); do
        grep -qx "$extra" "$stamp" || missing=yes
    done
    [ -n "$missing" ] || exit 0
    extras="$extras,$(sed 1d "$stamp" | paste -s -d, -)"
fi

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
if [ -x .venv/bin/python ]; then
    python=.venv/bin/python
    fits "$python" || stop ".venv has $($python --version 2>&1), but Python 3.11 to 3.13 is needed; remove .venv and run again"
else
    python=
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if fits "$candidate"; then python=$candidate; break; fi
    done
    if [ -z "$python" ] && command -v uv >/dev/null 2>&1; then python=uv; fi
    [ -n "$python" ] || stop "Python 3.11 to 3.13 is needed, found $(${PYTHON:-python3} --version 2>&1 || echo none); install one, or name it: make ... PYTHON=/path/to/python3.12"
    free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge "${SETUP_NEEDS_GIB:-8}" ] || stop "about ${SETUP_NEEDS_GIB:-8} GiB are needed for torch and its libraries, $free GiB are free on $(df -P . | awk 'NR == 2 { print $6 }'); free some space and run again"
    echo "setup: making .venv (once; torch is a download of a few GB)" >&2
    if [ "$python" = uv ]; then
        uv venv -q --python '>=3.11,<3.14' .venv
    elif command -v uv >/dev/null 2>&1; then
        uv venv -q --python "$(command -v "$python")" .venv
    else
        "$python" -m venv .venv || stop "could not make .venv; on Debian and Ubuntu: apt install python3-venv"
    fi
fi
if command -v uv >/dev/null 2>&1; then
    uv pip install -q --python .venv/bin/python -e ".[$extras]" || stop "the installation failed; its message is above. Run again to go on"
else
    .venv/bin/python -m pip install -q --disable-pip-version-check -e ".[$extras]" || stop "the installation failed; its message is above. Run again to go on"
fi
{ echo "$wanted"; echo "$extras" | tr ',' '\n' | sort -u; } > "$stamp"
