#!/usr/bin/env bash
# Bring Slurm and munge for tests/slurm into the virtual environment: the distribution's packages,
# unpacked, not installed, so no root is needed. Prints why where that cannot be done and ends with 0:
# the tests then skip with the same reason.
set -euo pipefail
venv=${VENV:-.venv}
root=$venv/slurm

[ -e "$root/usr/sbin/munged" ] && exit 0
PATH="$PATH:/usr/sbin:/sbin"
command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && exit 0

mkdir -p "$venv"
why() {
  printf 'Slurm is not installed and could not be unpacked (%s); on Debian or Ubuntu: apt-get install slurmctld slurmd slurm-client munge\n' "$1" |
    tee "$venv/slurm.missing"
  exit 0
}
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || why "no apt-get and dpkg-deb here"

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
cd "$tools"
# Slurm and what it needs beside what this machine has.
needed() {
  apt-get install --simulate --no-install-recommends slurmctld slurmd slurm-client munge 2>"$tools/log" |
    awk '/^Inst/ { print $2 }'
}
packages=$(needed) || { apt-get update -qq >/dev/null 2>&1; packages=$(needed) || why "$(tail -n 1 log)"; }
# shellcheck disable=SC2086  # one word a package
apt-get download -qq $packages >/dev/null 2>log ||
  { apt-get update -qq >/dev/null 2>&1; apt-get download -qq $packages >/dev/null 2>log; } ||
  why "$(tail -n 1 log)"
for package in *.deb; do dpkg-deb -x "$package" root; done
# They are installed as slurmctld-wlm and so on, but behave by the name they are called by.
for path in root/usr/*bin/*-wlm; do ln -s "$(basename "$path")" "${path%-wlm}"; done
cd - >/dev/null
rm -rf "$root" "$venv/slurm.missing"
mv "$tools/root" "$root"
echo "Slurm unpacked in $root."
