#!/usr/bin/env bash
# Install a bundle in a new folder without any network, and run the smoke study there. Minutes.
#   bash scripts/check_bundle.sh build/plmscale-bundle-....tar [FOLDER]
# The network is taken away by a namespace where that is allowed (util-linux, iproute2), else by
# settings that lead every proxy and index nowhere.
set -euo pipefail
tar=${1:?usage: check_bundle.sh BUNDLE.tar [FOLDER]}
folder=${2:-$(mktemp -d)}
mkdir -p "$folder"
tar -xf "$tar" -C "$folder"
bundle=$folder/$(basename "$tar" .tar)

alone=(env no_proxy= NO_PROXY= PIP_INDEX_URL=http://127.0.0.1:9 PIP_EXTRA_INDEX_URL=
  HTTP_PROXY=http://127.0.0.1:9 HTTPS_PROXY=http://127.0.0.1:9
  http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9)
# Ranks talk to each other by the loopback interface, which a new namespace has switched off.
if unshare --map-root-user --net sh -c 'ip link set lo up' 2>/dev/null; then
  alone+=(unshare --map-root-user --net sh -c 'ip link set lo up && exec "$@"' sh)
  echo "No network: a namespace of its own."
else
  echo "No network: proxies and index that lead nowhere."
fi

time "${alone[@]}" bash "$bundle/install.sh"
cd "$bundle/plmscale"
source .venv/bin/activate
"${alone[@]}" plmscale runs studies/smoke.yaml
time "${alone[@]}" snakemake --quiet all --cores 2 --configfile studies/smoke.yaml
[ -s results/smoke/report.html ]
echo "Installed and run: $bundle ($(du -sh "$bundle" | cut -f1))."
