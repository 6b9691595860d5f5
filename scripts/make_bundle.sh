#!/usr/bin/env bash
# Make build/plmscale-bundle-VERSION-PLATFORM.tar: all that an installation without a network needs.
#   TORCH_SPEC       as for make env; with --index-url the wheel comes from there
#   PYTHON_VERSION   3.12: for another Python than the environment's
#   PLATFORM         manylinux_2_28_x86_64: for machines with glibc 2.28 or newer
#   SEQKIT           a seqkit to take along instead of the environment's
#   STUDY            a study file, whose verified downloads come along
# docs/environments.md tells how it is used; scripts/install_bundle.sh is its install.sh.
set -euo pipefail
venv=${VENV:-.venv}
python=$venv/bin/python
torch=${TORCH_SPEC:-torch==2.13.0}
study=${STUDY:-}

say() { printf '%s\n' "$*"; }
die() { printf 'make bundle: %s\n' "$*" >&2; exit 2; }
bundle() { PYTHONPATH=src "$python" -m plmscale.bundle "$@"; }

# What is asked for, before anything is downloaded.
for tool in git tar; do
  command -v "$tool" >/dev/null || die "$tool is missing; on Debian or Ubuntu: apt-get install $tool"
done
[ -x "$python" ] || die "$venv is missing; make env first"
[ -z "$study" ] || [ -f "$study" ] || die "STUDY=$study: no such file"
# An unpacked bundle may lie below somebody else's repository: then HEAD is not ours.
[ "$(git ls-files scripts/make_bundle.sh 2>/dev/null)" ] ||
  die "this is no git checkout of plmscale; a bundle is made of a commit"
commit=$(git rev-parse --verify HEAD)
changed=$(git status --porcelain --untracked-files=no)
[ -z "$changed" ] ||
  die "uncommitted changes ($(printf '%s\n' "$changed" | head -n 3 | tr '\n' ';')); commit them or put them aside: a bundle holds a commit"
seqkit=${SEQKIT:-$(PATH="$venv/bin:$PATH" command -v seqkit || true)}
[ -f "$seqkit" ] || die "seqkit is missing${SEQKIT:+ at $SEQKIT}; make env brings it, or set SEQKIT=/path/to/seqkit"

read -r own_version own_machine own_glibc < <("$python" -c '
import platform, sys
print("%d.%d" % sys.version_info[:2], platform.machine(), platform.libc_ver()[1] or "0")')
version=${PYTHON_VERSION:-$own_version}
platform=${PLATFORM:-manylinux_${own_glibc/./_}_$own_machine}
[[ $version =~ ^3\.[0-9]+$ ]] || die "PYTHON_VERSION=$version: expected a version such as 3.12"
[[ $platform =~ ^manylinux_2_([0-9]+)_([a-z0-9_]+)$ ]] ||
  die "PLATFORM=$platform: expected manylinux_2_N_MACHINE, such as manylinux_2_28_x86_64 for glibc 2.28"
newest=${BASH_REMATCH[1]} machine=${BASH_REMATCH[2]} glibc=2.${BASH_REMATCH[1]}

mkdir -p build
work=$(mktemp -d build/.bundle.XXXXXX)
trap 'rm -rf "$work"' EXIT
unpacked=$work/plmscale-bundle
wheels=$unpacked/wheels
mkdir -p "$work/torch" "$work/built" "$wheels" "$unpacked/tools"

git archive --format=tar --prefix=plmscale/ "$commit" | tar -x -C "$unpacked"
install -m 755 "$unpacked/plmscale/scripts/install_bundle.sh" "$unpacked/install.sh"
install -m 755 "$seqkit" "$unpacked/tools/seqkit"
bundle tools "$unpacked/tools" --machine "$machine" --glibc "$glibc"
[ -z "$study" ] || bundle downloads "$study" --out "$unpacked/plmscale"

# For another Python or machine pip takes wheels alone, each tag named.
target=()
if [ "$version" != "$own_version" ] || [ -n "${PLATFORM:-}" ]; then
  target=(--only-binary=:all: --implementation cp --python-version "$version")
  target+=(--abi "cp${version/./}" --abi abi3 --abi none --platform "linux_$machine")
  for ((n = newest; n >= 5; n--)); do target+=(--platform "manylinux_2_${n}_$machine"); done
  for name in manylinux2014 manylinux2010 manylinux1; do target+=(--platform "${name}_$machine"); done
fi
pip=("$python" -m pip --quiet --disable-pip-version-check)
export DS_BUILD_OPS=0

say "Downloading torch ($torch) ..."
# shellcheck disable=SC2086  # TORCH_SPEC may hold pip options
"${pip[@]}" download --no-deps --dest "$work/torch" "${target[@]}" $torch ||
  die "there is no such wheel of torch for Python $version on $platform; set TORCH_SPEC"
torch_version=$(basename "$work"/torch/torch-*.whl | cut -d- -f2)
# Beside torch, its index holds packages that only this build needs.
index=${torch//--index-url/--extra-index-url}
index=$(grep -oE -- '--extra-index-url[= ]+[^ ]+' <<<"$index" || true)

# A source package is built here, which serves another Python only where no code is compiled.
built_here() {
  say "Building $1 ..."
  "${pip[@]}" wheel --no-deps --wheel-dir "$work/built" "$1"
  [ -z "$(find "$work/built" -name '*.whl' ! -name '*-none-any.whl')" ] ||
    die "$1 has no wheel for Python $version on $platform; make the bundle on such a machine"
}

fetch() {
  if [ ${#target[@]} -eq 0 ]; then
    # shellcheck disable=SC2086
    "${pip[@]}" wheel --wheel-dir "$wheels" --find-links "$work/torch" $index "$@"
    return
  fi
  local lacking before=
  # shellcheck disable=SC2086
  until "${pip[@]}" download --dest "$wheels" --find-links "$work/torch" --find-links "$work/built" \
    "${target[@]}" $index "$@" 2>"$work/log"; do
    lacking=$(sed -nE 's/^ERROR: No matching distribution found for ([^ ]+).*/\1/p' "$work/log" | head -n 1)
    if [ -z "$lacking" ] || [ "$lacking" = "$before" ]; then
      cat "$work/log" >&2
      die "pip found no set of wheels for Python $version on $platform; what it said stands above"
    fi
    built_here "$lacking"
    before=$lacking
  done
}

say "Downloading what plmscale stands on, for Python $version on $platform ..."
fetch --requirement requirements.lock "torch==$torch_version" 'setuptools>=74.1'
# For another Python pip overlooks what only that one needs, so what it brought is gone through again.
for _ in 1 2 3 4 5; do
  bundle missing "$wheels" --python "$version" --machine "$machine" >"$work/lacking"
  [ -s "$work/lacking" ] || break
  mapfile -t lacking <"$work/lacking"
  fetch --constraint requirements.lock "${lacking[@]}" "torch==$torch_version"
done
[ ! -s "$work/lacking" ] ||
  die "no wheels were found for $(tr '\n' ' ' <"$work/lacking"); make the bundle on such a machine"

bundle write "$unpacked" --commit "$commit" --python "$version" --machine "$machine" \
  --torch "$torch_version" --glibc "$glibc" --study "$study"

name=plmscale-bundle-$(PYTHONPATH=src "$python" -c 'import plmscale; print(plmscale.__version__)')
name=$name-cp${version/./}-linux_$machine-torch$torch_version
mv "$unpacked" "$work/$name"
# Names sorted and no owners: the same content gives the same bytes, but for the times of files.
tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner -cf "$work/tar" "$name"
mv "$work/tar" "build/$name.tar"
say "build/$name.tar ($(du -h "build/$name.tar" | cut -f1)). On the cluster: tar xf $name.tar && bash $name/install.sh"
