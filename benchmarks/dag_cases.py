"""What `dag_speed.py` measures: a copy of the project, a study of thousands of runs, a peer, a job.

Stand-ins for Slurm's commands answer nothing, so that no cluster's own speed is measured; the one for
`sbatch` keeps the script that the executor hands over.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "config.yaml", "environment.yml", "profiles", "resources", "rules", "scripts")
PARTS += ("src", "studies")
# A grid as people would ask for it: 25 sizes at 10 budgets, both objectives, so many seeds.
WIDE = """\
overlays: cheng2024.yaml
study: wide
grid:
  isoflop:
    kind: isoflop
    objectives: [clm, mlm]
    budgets: [3.0e+18, 6.0e+18, 1.0e+19, 3.0e+19, 6.0e+19, 1.0e+20, 1.5e+20, 2.0e+20, 3.0e+20, 6.0e+20]
    sizes: [6M, 13M, 25M, 34M, 47M, 65M, 85M, 106M, 127M, 154M, 170M, 200M, 230M, 300M, 393M, 470M,
            550M, 680M, 880M, 1.2B, 1.5B, 1.7B, 2B, 2.4B, 2.8B]
    seeds: {seeds}
subsets: {{}}
"""
# As many jobs and files of output as ours, and nothing else: no functions, params, resources.
PEER = """\
RUNS = [f"run{{i}}" for i in range({runs})]
localrules: recipe
rule report:
    input:
        expand("runs/{{run}}/metrics.json", run=RUNS),
        expand("runs/{{run}}/curve.csv", run=RUNS),
        expand("rest/{{n}}", n=range({rest})),
    output: expand("report/{{n}}", n=range({files})),
    shell: "touch {{output}}"
rule recipe:
    output: "runs/{{run}}/recipe.json",
    log: "logs/recipe/{{run}}.log",
    shell: "touch {{output}}"
rule train:
    input: "runs/{{run}}/recipe.json", "rest/0",
    output: {outputs},
    log: "logs/train/{{run}}.log",
    resources: mpi="",
    shell: "touch {{output}}"
rule rest:
    output: "rest/{{n}}",
    shell: "touch {{output}}"
"""
OUTPUTS = ("metrics.json", "curve.csv", "validation.csv", "model.safetensors", "config.json")
PEER_ON_SLURM = ["--executor", "slurm", "--jobs", "200", "--default-resources"]
PEER_ON_SLURM += ["slurm_partition=cpu", "mem_mb=4000", "runtime=120"]
# Sourced by the bash of the rule's shell command before anything else: the time, and the processor
# time of this process and those that wait for it, up to the benchmark.
MARK = """\
echo "$EPOCHREALTIME" > "$DAG_SPEED_MARK.part"
pid=$$
while [ "$pid" -gt 1 ] && [ "$pid" != "$DAG_SPEED_PID" ]; do
    read -r line < "/proc/$pid/stat"
    set -- ${line##*) }
    echo "${12} ${13} ${14} ${15}" >> "$DAG_SPEED_MARK.part"
    pid=$2
done
mv "$DAG_SPEED_MARK.part" "$DAG_SPEED_MARK"
exit 7
"""
SBATCH = """\
#!/bin/sh
for word; do
    case $word in --wrap=*) printf '%s\\n' "${word#--wrap=}" > "$DAG_SPEED_JOB";; esac
done
echo 1000
"""


class Place:
    """A temporary folder with two copies of the project, the wide study, stand-ins for Slurm.

    Nothing has run in `project`; in `started` are the inputs of jobs.
    """

    def __init__(self, folder, seeds):
        self.folder, self.tools = folder, folder / "tools"
        self.project, self.started = folder / "project", folder / "started"
        self.project.mkdir()
        for part in PARTS:
            if (ROOT / part).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(ROOT / part, self.project / part, ignore=ignored)
            else:
                shutil.copyfile(ROOT / part, self.project / part)
        text = WIDE.format(seeds=list(range(1, seeds + 1)))
        (self.project / "studies/wide.yaml").write_text(text)
        shutil.copytree(self.project, self.started)
        self.tools.mkdir()
        for name in ("sinfo", "squeue", "sacct", "scontrol", "scancel", "sbatch"):
            (self.tools / name).write_text(SBATCH if name == "sbatch" else "#!/bin/sh\n")
            (self.tools / name).chmod(0o755)
        (self.tools / "mark.sh").write_text(MARK)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SNAKEMAKE_"))}
        path = f"{self.tools}:{Path(sys.executable).parent}:{kept.get('PATH', '')}"
        self.environment = {
            **kept,
            "PATH": path,
            "PYTHONPATH": str(self.project / "src"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def peer(self, name, runs, jobs, files):
        """Write the peer of a study with so many runs, jobs and files of output; return its folder."""
        folder = self.folder / name
        folder.mkdir()
        rest = jobs - 2 * runs - 1
        more = files - (1 + len(OUTPUTS)) * runs - rest
        outputs = ", ".join(f'"runs/{{run}}/{name}"' for name in OUTPUTS)
        text = PEER.format(runs=runs, rest=rest, files=more, outputs=outputs)
        (folder / "Snakefile").write_text(text)
        return folder

    def job(self, folder, words, target):
        """Return the file with the script that the executor hands to sbatch for the job of `target`."""
        script = folder / "job.sh"
        environment = {**self.environment, "DAG_SPEED_JOB": str(script)}
        log = folder / "submitted.log"
        with log.open("wb") as handle:
            process = subprocess.Popen(
                snakemake("--nolock", target, *words), cwd=folder, env=environment,
                stdout=handle, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        # Killed as soon as it has submitted: at its own end it would remove a folder that the job
        # looks for.
        wait_for(lambda: script.is_file() and script.read_text().endswith("\n"), process, log)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return script

    def start(self, script, folder):
        """Return seconds of wall clock and of processors until the job's shell command starts."""
        mark, log = folder / "mark", folder / "job.log"
        mark.unlink(missing_ok=True)
        environment = {
            **self.environment,
            "BASH_ENV": str(self.tools / "mark.sh"),
            "DAG_SPEED_MARK": str(mark),
            "DAG_SPEED_PID": str(os.getpid()),
            "SLURM_JOB_ID": "1000",
        }
        begin = time.time()
        with log.open("wb") as handle:
            process = subprocess.Popen(
                ["sh", script], cwd=folder, env=environment,
                stdout=handle, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        wait_for(mark.exists, process, log)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        instant, *ticks = mark.read_text().splitlines()
        used = sum(int(word) for line in ticks for word in line.split())
        return float(instant) - begin, used / os.sysconf("SC_CLK_TCK")

    def timed(self, words, folder):
        """Run a command to its end; return seconds of wall clock and of processors, and its output."""
        log = folder / "output.log"
        with log.open("wb") as handle:
            begin = time.perf_counter()
            process = subprocess.Popen(
                words, cwd=folder, env=self.environment, stdout=handle, stderr=subprocess.STDOUT
            )
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        text = log.read_text(errors="replace")
        if process.returncode:
            raise SystemExit(f"{' '.join(map(str, words))} failed:\n{text[-3000:]}")
        return seconds, used.ru_utime + used.ru_stime, text


def snakemake(*words):
    return [sys.executable, "-m", "snakemake", *map(str, words)]


def wait_for(happened, process, log, limit=900):
    """Wait until `happened()`; a process that ends or takes too long before is an error."""
    end = time.monotonic() + limit
    while not happened():
        ended = process.poll() is not None and not happened()
        if ended or time.monotonic() > end:
            if not ended:
                os.killpg(process.pid, signal.SIGKILL)
            raise SystemExit(f"{log}: not what was expected:\n{log.read_text()[-3000:]}")
        time.sleep(0.002)


def counted(text):
    """Return the jobs of a dry run and the files they write, from what it prints."""
    jobs = int(re.search(r"^total\s+(\d+)$", text, re.M)[1])
    outputs = re.findall(r"^    output: (.+)$", text, re.M)
    return jobs, sum(len(line.split(", ")) for line in outputs)


def spread(values):
    """Return best and median of the rounds, seconds."""
    return {"best": min(values), "median": statistics.median(values)}
