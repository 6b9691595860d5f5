"""seqkit, any of its commands, with the interface of the public wrapper bio/seqkit.

params.command   the seqkit command (seq, rmdup, grep, stats, ...)
params.extra     further options
input[0]         the file to read; other inputs, by name, are given as --<name>-file
output[0]        the file to write; other outputs, by name, are given as --<name>-file
threads, log     passed on

`_` in a name stands for `-`, so output `dup_num` becomes `--dup-num-file`.
"""

import shlex
import subprocess
import sys


def named(files):
    """Return options for all files but the first, and complain about one without a name."""
    names = dict(files.items())
    options = []
    for position, path in enumerate(files):
        if position == 0:
            continue
        name = next((key for key, value in names.items() if value == path), None)
        if name is None:
            raise ValueError(f"seqkit wrapper: {path} needs a name; only the first file has none")
        options += [f"--{name.replace('_', '-')}-file", str(path)]
    return options


command = [
    "seqkit",
    *shlex.split(snakemake.params.command),
    "--threads",
    str(snakemake.threads),
    *named(snakemake.input),
    *named(snakemake.output),
    *shlex.split(snakemake.params.get("extra", "")),
    "--out-file",
    str(snakemake.output[0]),
    str(snakemake.input[0]),
]
with open(snakemake.log[0], "a") if snakemake.log else sys.stderr as log:
    print(shlex.join(command), file=log, flush=True)
    try:
        subprocess.run(command, check=True, stderr=log)
    except FileNotFoundError:
        sys.exit("seqkit is not on PATH: run `make env`, or conda install -c bioconda seqkit")
    except subprocess.CalledProcessError as error:
        sys.exit(f"seqkit failed ({error.returncode}); what it said stands in its log")
