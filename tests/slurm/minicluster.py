"""A real Slurm of a few nodes on this machine, for tests: no root, no database, loopback only.

    with Cluster(folder) as cluster:
        cluster.run("sinfo")

Keys, sockets, logs and state lie under `folder`, whose path must be short (a socket's name has at most
107 characters). Programs come from the virtual environment (scripts/make_slurm.sh) or from the system.
GPUs are simulated: character devices that nobody uses.
"""

import json
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

UNPACKED = Path(sys.prefix) / "slurm"
SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
CLIENTS = [
    "sacct",
    "sacctmgr",
    "salloc",
    "sbatch",
    "scancel",
    "scontrol",
    "sinfo",
    "sprio",
    "squeue",
    "srun",
    "sstat",
]


def program(name):
    """Return the path of a program of Slurm or munge, or None."""
    for folder in ("usr/sbin", "usr/bin"):
        if (UNPACKED / folder / name).is_file():
            return str(UNPACKED / folder / name)
    return shutil.which(name, path=f"{SYSTEM_PATH}:{os.environ['PATH']}")


def missing():
    """Return why no cluster can be started here, or an empty text."""
    absent = [p for p in ("munged", "slurmctld", "slurmd", "srun") if program(p) is None]
    if not absent:
        return ""
    told = Path(sys.prefix) / "slurm.missing"
    return told.read_text() if told.exists() else f"{', '.join(absent)} not found: make test-slurm"


def libraries():
    """Return folders of shared libraries and Slurm's plugins below the unpacked packages."""
    found = sorted({str(p.parent) for p in UNPACKED.glob("usr/lib/**/lib*.so*")})
    plugins = next((str(p.parent) for p in UNPACKED.glob("usr/lib/**/auth_munge.so")), None)
    return found, plugins


def running(pid, since=None):
    """Return whether a process runs: zombies do not, nor does another process of the same number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX" and (since is None or fields[19] == since)


def _since(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def wait_for(condition, seconds, what):
    """Return what `condition()` returns once that is true; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"{what}: not in {seconds} s"
        time.sleep(0.1)
    return found


class Cluster:
    """Starts munged, slurmctld and a slurmd a node; stops them by their process ids."""

    def __init__(self, folder, nodes=4, cpus=4, memory_mb=6000, gpus=2):
        self.folder = Path(folder).resolve()
        self.cpus, self.memory_mb, self.gpus = cpus, memory_mb, gpus
        self.nodes = [f"node{n}" for n in range(1, nodes + 1)]
        self.configuration = self.folder / "slurm.conf"
        self.processes = {}
        self.since = {}

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def environment(self):
        """What a program needs to use this cluster: its client commands first on PATH."""
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "SRUN"))
        }
        path = f"{self.folder}/bin:{Path(sys.executable).parent}:{clean['PATH']}"
        return {**clean, "PATH": path}

    def run(self, *words, check=True, timeout=30):
        """Run a client command; return its standard output, stripped."""
        done = subprocess.run(
            [f"{self.folder}/bin/{words[0]}", *map(str, words[1:])],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stderr or done.stdout}"
        return done.stdout.strip()

    def jobs(self, format="%i|%T|%k"):
        """Return jobs in the queue, or still held in memory, as lists of fields."""
        text = self.run("squeue", "-h", "-o", format, timeout=60)
        return [line.split("|") for line in text.splitlines()]

    def running_job(self, of, seconds=90):
        """Return the number of the running job whose comment names `of`."""

        def look():
            return next((j for j, s, k in self.jobs() if of in k and s == "RUNNING"), None)

        return wait_for(look, seconds, f"job of {of} running")

    # Configuration.

    def _write(self):
        for name in ("bin", "run", "log", "state", *(f"spool/{n}" for n in self.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        self.port, *ports = _free_ports(1 + len(self.nodes))
        here, user = socket.gethostname().split(".")[0], pwd.getpwuid(os.getuid()).pw_name
        _, plugins = libraries()
        gres = f"Gres=gpu:{self.gpus} " if self.gpus else ""
        lines = [
            "ClusterName=rehearsal",
            f"SlurmctldHost={here}(127.0.0.1)",
            f"SlurmctldPort={self.port}",
            "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny",
            "AuthType=auth/munge",
            f"AuthInfo=socket={self.folder}/run/munge",
            "CredType=cred/munge",
            f"SlurmUser={user}",
            f"SlurmdUser={user}",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/spool/%n",
            f"SlurmctldPidFile={self.folder}/run/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/run/%n.pid",
            f"SlurmctldLogFile={self.folder}/log/slurmctld.log",
            f"SlurmdLogFile={self.folder}/log/%n.log",
            *([f"PluginDir={plugins}"] if plugins else []),
            "PlugStackConfig=/dev/null",
            "MailProg=/bin/true",
            "MpiDefault=none",
            # linuxproc leaks processes when a node fails; cgroups need root.
            "ProctrackType=proctrack/pgid",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "JobCompType=jobcomp/none",
            "PropagateResourceLimits=NONE",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core_Memory",
            # Nodes may have more cores than this machine.
            "SlurmdParameters=config_overrides",
            "ReturnToService=2",
            "GresTypes=gpu",
            "SchedulerType=sched/backfill",
            "SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1",
            "SlurmctldTimeout=10",
            "SlurmdTimeout=10",
            "KillWait=20",
            "MinJobAge=600",
            "JobRequeue=1",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
        ]
        for name, port in zip(self.nodes, ports):
            lines.append(
                f"NodeName={name} NodeHostname={here} NodeAddr=127.0.0.1 Port={port} "
                f"CPUs={self.cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={self.cpus} "
                f"ThreadsPerCore=1 RealMemory={self.memory_mb} {gres}State=UNKNOWN"
            )
        everyone = ",".join(self.nodes)
        lines += [
            f"PartitionName=main Nodes={everyone} Default=YES MaxTime=60 PriorityTier=1 State=UP",
            f"PartitionName=urgent Nodes={everyone} MaxTime=60 PriorityTier=10 PreemptMode=OFF State=UP",
        ]
        self.configuration.write_text("\n".join(lines) + "\n")
        self._write_gres()
        self._write_clients()

    def _write_gres(self):
        # A number alone makes no GPU: Slurm wants character devices.
        if Path(f"/dev/tty{self.gpus - 1}").exists():
            lines = [f"Name=gpu File=/dev/tty[0-{self.gpus - 1}]\n"]
        else:
            devices = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random"][: self.gpus]
            lines = [f"Name=gpu File={device}\n" for device in devices]
        (self.folder / "gres.conf").write_text("".join(lines))

    def _write_clients(self):
        """Write client commands that bring their configuration along.

        The executor's job step strips SLURM_CONF from a job's environment, but leaves PATH.
        """
        folders, _ = libraries()
        setting = f"SLURM_CONF={shlex.quote(str(self.configuration))}"
        if folders:
            setting += f" LD_LIBRARY_PATH={shlex.quote(':'.join(folders))}"
        for name in CLIENTS:
            if (real := program(name)) is None:
                continue
            lines = ["#!/bin/sh"]
            if name == "sacct":
                # There is no accounting; what the executor asks when the controller is away is
                # answered by the queue.
                lines += [
                    'case "$*" in *--format=JobIdRaw,State*--name\\ *) for n; do :; done; '
                    f'exec {self.folder}/bin/squeue --format="%i|%T" --states=all --noheader --name "$n";; esac'
                ]
            lines.append(f'{setting} exec {real} "$@"\n')
            path = self.folder / "bin" / name
            path.write_text("\n".join(lines))
            path.chmod(0o755)

    # Daemons.

    def _spawn(self, name, *words):
        folders, _ = libraries()
        environment = {
            **self.environment,
            "SLURM_CONF": str(self.configuration),
            # Inherited by the step daemons of a node, by which `crash` knows them.
            "REHEARSAL_NODE": f"{self.folder}:{name}",
        }
        if folders:
            environment["LD_LIBRARY_PATH"] = ":".join(folders)
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            process = subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )
        self.processes[name], self.since[name] = process, _since(process.pid)
        pids = {n: [p.pid, self.since[n]] for n, p in self.processes.items()}
        (self.folder / "pids.json").write_text(json.dumps(pids))

    def start(self):
        self._write()
        self._spawn(
            "munged",
            program("munged"),
            "--foreground",
            # Also below a folder that others may not enter.
            "--force",
            f"--key-file={self.folder}/munge.key",
            f"--socket={self.folder}/run/munge",
            f"--pid-file={self.folder}/run/munged.pid",
            f"--log-file={self.folder}/log/munged.log",
            f"--seed-file={self.folder}/state/munge.seed",
        )
        wait_for((self.folder / "run/munge").exists, 20, "munged's socket")
        self.start_controller()
        for name in self.nodes:
            self.start_node(name)
        self.wait_idle(self.nodes)

    def start_controller(self, fresh=True):
        self._spawn("slurmctld", program("slurmctld"), "-D", *(["-c"] if fresh else []))
        # A node that finds no controller sleeps before it asks again.
        wait_for(self._answers, 20, "slurmctld's port")

    def _answers(self):
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False

    def start_node(self, name):
        words = [program("slurmd"), "-D", "-N", name]
        if (UNPACKED / "usr/sbin/slurmstepd").exists():
            words += ["-d", f"{UNPACKED}/usr/sbin/slurmstepd"]
        self._spawn(name, *words)

    def wait_idle(self, names, seconds=40):
        def up():
            text = self.run(
                "sinfo", "-h", "-N", "-p", "main", "-t", "idle,mix,alloc", "-o", "%N", check=False
            )
            return set(names) <= set(text.split())

        wait_for(up, seconds, f"{', '.join(names)} up")

    def stop_controller(self):
        self._end("slurmctld")

    def crash(self, name):
        """Do to a node what a power cut does: its daemon and all below it end at once."""
        mark = f"REHEARSAL_NODE={self.folder}:{name}".encode()
        for pid in self._family(mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.processes.pop(name).wait(10)

    def _family(self, mark):
        """Return daemons with `mark` in their environment, and all their descendants.

        Killing slurmd alone is not enough: its steps would run on beside the new ones.
        """
        children, found = {}, []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
                daemon = (folder / "comm").read_text().startswith("slurm")
                if daemon and mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        for pid in found:
            found += [child for child in children.get(pid, []) if child not in found]
        return found

    def release(self, job):
        """Let a requeued job start now: Slurm holds it for two minutes."""

        def waits():
            return "BeginTime" in self.run("squeue", "-h", "-j", job, "-o", "%r")

        wait_for(waits, 90, f"job {job} held after its requeue")
        # Earlier its credential is refused and the job fails.
        time.sleep(3)
        self.run("scontrol", "update", f"jobid={job}", "starttime=now")

    def _end(self, name):
        process = self.processes.pop(name, None)
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def left(self):
        """Return processes of this cluster's jobs and steps that still run."""
        marks = (f"REHEARSAL_NODE={self.folder}:".encode(), f"PATH={self.folder}/bin:".encode())
        own, found = {p.pid for p in self.processes.values()} | {os.getpid()}, []
        for folder in Path("/proc").glob("[0-9]*"):
            pid = int(folder.name)
            with suppress(OSError):
                texts = (folder / "environ").read_bytes().split(b"\0")
                of_node = any(t.startswith(marks[0]) for t in texts)
                of_job = any(t.startswith(b"SLURM_JOB_ID=") for t in texts)
                of_job = of_job and any(t.startswith(marks[1]) for t in texts)
                if (of_node or of_job) and pid not in own and running(pid):
                    found.append(pid)
        return found

    def cancel_all(self, seconds=30):
        numbers = {fields[0] for fields in self.jobs("%i")}
        if numbers:
            self.run("scancel", *sorted(numbers), check=False)
            wait_for(lambda: not self.jobs("%i"), seconds, "jobs cancelled")

    def stop(self):
        """Cancel jobs, stop the daemons, and kill what is left of the jobs."""
        with suppress(Exception):
            self.cancel_all()
        for name in [*self.nodes, "slurmctld"]:
            self._end(name)
        for pid in self.left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._end("munged")


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
