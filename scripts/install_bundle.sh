#!/usr/bin/env bash
# install.sh of an offline bundle: checks every file, then makes the environment from the bundle alone.
#   bash install.sh          the checkout is the folder plmscale/ beside this file
#   bash install.sh DIR      it is copied to DIR, a new folder
# PYTHON names the interpreter, of the minor version that the bundle was made for.
set -euo pipefail
bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}

say() { printf '%s\n' "$*"; }
die() { printf 'install.sh: %s\n' "$*" >&2; exit 2; }

[ $# -le 1 ] || die "expected at most one folder: bash install.sh DIR"
target=${1:-$bundle/plmscale}
[ -f "$bundle/bundle.json" ] || die "$bundle/bundle.json is missing; unpack the bundle anew"
command -v "$python" >/dev/null || die "there is no $python; set PYTHON=/path/to/python, or load the cluster's module"
# What an old Python can read; all else is checked by plmscale's own code, which it could not.
"$python" - "$bundle/bundle.json" <<'PY' || exit 2
import json, sys
wanted = json.load(open(sys.argv[1]))["python"]
here = "%d.%d" % sys.version_info[:2]
if here != wanted:
    other = ", or make the bundle with PYTHON_VERSION=" + here if sys.version_info >= (3, 11) else ""
    sys.exit("install.sh: this bundle is for Python %s, and %s is Python %s; set PYTHON=/path/to/python%s%s"
             % (wanted, sys.executable, here, wanted, other))
PY
[ ! -e "$target/.venv/.ready" ] ||
  die "$target/.venv is there already; to make it anew, remove it first"
[ $# -eq 0 ] || [ ! -e "$target" ] || [ -z "$(ls -A "$target")" ] ||
  die "$target exists already; remove it or give a new folder"

say "Verifying $bundle ..."
PYTHONPATH="$bundle/plmscale/src" "$python" -B -m plmscale.bundle check "$bundle"
torch=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["torch"])' "$bundle/bundle.json")

if [ $# -eq 1 ]; then
  mkdir -p "$target"
  cp -a "$bundle/plmscale/." "$target/"
fi
target=$(cd "$target" && pwd)
cd "$target"
# There is no git here: this says which commit the checkout is.
cp "$bundle/bundle.json" bundle.json
VENV=.venv PYTHON="$python" TORCH_SPEC="torch==$torch" WHEELS="$bundle/wheels" TOOLS="$bundle/tools" \
  bash scripts/make_env.sh
# From here on `make demo` and the like take the environment as it is.
touch .venv/.ready
say "Installed. Go on with:
    cd $target && source .venv/bin/activate
    plmscale runs studies/smoke.yaml
    snakemake --cores 2 --configfile studies/smoke.yaml"
