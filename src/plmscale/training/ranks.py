"""From a launcher to ranks: torchrun's own API, with ranks forked from a warm process."""

from __future__ import annotations

import ctypes
import gc
import importlib
import io
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import nullcontext, suppress
from typing import Any

from plmscale.errors import PlmscaleError
from plmscale.training import places
from plmscale.training.options import Options

_IMPORTED_LATE = (
    "deepspeed",
    "deepspeed.comm.mori",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.triton_ops",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "setuptools",
    "numpy.ctypeslib",
    "numpy.random",
    "torch._dynamo",
    "torch.distributed.launcher.api",
    "torch.distributed.elastic.rendezvous.c10d_rendezvous_backend",
    "torch.profiler",
    "torch.utils.tensorboard.writer",
    "plmscale.training.trainer",
)
_LOCAL = ("127.0.0.1", "localhost")
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def preload() -> None:
    """Import all that training on a CPU imports, starting no thread: forks after it pay nothing.

    Modules that torch and deepspeed import at first use are named here; a missing one only costs
    the time it would have saved.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # DeepSpeed's Muon optimizer, unused here, compiles a function at import, which pulls in the
    # whole of torch's compiler (2 s).
    before = os.environ.get("TORCHDYNAMO_DISABLE")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    for name in _IMPORTED_LATE:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    if before is None:
        del os.environ["TORCHDYNAMO_DISABLE"]
    else:
        os.environ["TORCHDYNAMO_DISABLE"] = before
    # Collections after this pass over the imported modules, and forks go on sharing them.
    gc.freeze()


def launch(options: Options) -> int:
    """Train `options` on the ranks that its launcher stands for; return the exit code."""
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    # Its report of a failed rank says nothing that the rank has not said.
    _quiet(logging.ERROR)
    who = places.resolve(options.launcher)
    if who == "local":
        return _launch_here(options)
    if who == "slurm":
        os.environ.update(places.from_slurm(os.environ))
    _check_environment(options)
    # This process is a rank itself. Under torchrun or srun a stopped rank ends with its signal's
    # code, which rank_main leaves by os._exit.
    rank_main(options)
    return 0


def _check_environment(options: Options) -> None:
    missing = [name for name in places.NEEDED if name not in os.environ]
    if missing:
        raise PlmscaleError(f"--launcher env: {', '.join(missing)} not set; start with torchrun")
    if options.devices > 1 and options.devices != int(os.environ["WORLD_SIZE"]):
        raise PlmscaleError(
            f"--devices {options.devices}, but WORLD_SIZE is {os.environ['WORLD_SIZE']}"
        )


def _launch_here(options: Options) -> int:
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from plmscale.training.launch import finished

    if torch.cuda.is_available():
        method = "spawn"
        if options.devices > (there := torch.cuda.device_count()):
            raise PlmscaleError(f"--devices {options.devices}: this machine has {there} GPU(s)")
    else:
        method = "fork"
        os.environ["DS_ACCELERATOR"] = "cpu"
        preload()
    with tempfile.TemporaryDirectory(prefix="plmscale-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=options.devices,
            run_id=f"plmscale-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            monitor_interval=0.02,
            start_method=method,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
            shutdown_timeout=120,
        )
        # torch's launcher passes SIGTERM on to its ranks, but not the warning that Slurm sends.
        signal.signal(signal.SIGUSR1, _as_sigterm)
        try:
            elastic_launch(config, _local_rank)(options)
        except (ChildFailedError, SignalException) as error:
            # Whatever befell it after its last result: an error here would have a caller delete
            # the results, and the checkpoint is gone.
            if finished(options):
                return 0
            if isinstance(error, SignalException):
                return 128 + error.sigval
            codes = [failure.exitcode for failure in error.failures.values()]
            _tell_killed(codes)
            return next((code if code > 0 else 128 - code for code in codes if code), 1)
    return 0


def _tell_killed(codes: list[int]) -> None:
    """Say what a rank that was killed could not say itself; a stop that was asked for is no error."""
    for number in {-code for code in codes if code < 0} - {signal.SIGTERM, signal.SIGUSR1}:
        why = (
            "; most likely the machine or job ran out of memory" if number == signal.SIGKILL else ""
        )
        print(
            f"plmscale: error: a process of this run was killed by {signal.Signals(number).name}{why}",
            file=sys.stderr,
            flush=True,
        )


def _local_rank(options: Options) -> None:
    """One rank of `_launch_here`."""
    rank_main(options)
    # A launcher that was told to stop meanwhile does not fetch the result that a rank waits to
    # hand over; it would kill this process only after two minutes.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(5)


def _as_sigterm(_number: int, _frame: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def rank_main(options: Options) -> None:
    """One rank: settings of the process, process group, lock, training."""
    # A rank must not outlive its launcher; SIGTERM still lets it save.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    sys.stdout, sys.stderr = _lossy(1), _lossy(2)
    _quiet()
    keep_freed_memory()
    import torch

    from plmscale.files import read_json, remove_leavings
    from plmscale.training import checkpoint, engine
    from plmscale.training.launch import finished
    from plmscale.training.lock import owned
    from plmscale.training.trainer import train

    torch.set_num_threads(options.threads)
    if os.environ.get("MASTER_ADDR") in _LOCAL:
        # Ranks of one machine, whose own name may not resolve.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        # Where the launcher shows each rank one GPU alone, that one is number 0 to it. DeepSpeed
        # takes LOCAL_RANK for the number.
        local = int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count()
        os.environ["LOCAL_RANK"] = str(local)
        torch.cuda.set_device(local)
    code = 0
    try:
        with owned(options.checkpoint_dir) if rank == 0 else nullcontext() as owner:
            if rank == 0:
                checkpoint.claim(options.checkpoint_dir, read_json(options.recipe))
                for folder in (options.checkpoint_dir, options.run_dir):
                    remove_leavings(folder)
            engine.start_distributed(device)
            # Another process may have trained it while this one waited for the lock.
            if not checkpoint.of_first(finished(options), device):
                train(options, rank, world, owner)
            elif rank == 0:
                print(f"{options.run_dir}: already finished", flush=True)
    except PlmscaleError as error:
        # Each rank reads files of its own, so each may be the only one that knows.
        who = f"rank {rank}: " if rank else ""
        print(f"plmscale: error: {who}{error}", file=sys.stderr, flush=True)
        code = 2
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException as error:
        if world > 1 and isinstance(error, RuntimeError) and "by peer" in str(error):
            # The rank that died first has told why, or was killed; a traceback here misleads. The
            # launcher goes by the first exit code that it sees: that should be the other's.
            time.sleep(0.5)
            print(f"plmscale: rank {rank} lost another rank", file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        # Not sys.exit: peers may wait in a collective, and interpreter exit would wait for them.
        os._exit(code)


class _Lossy(io.RawIOBase):
    """A descriptor that takes what it is given: a full disk or a reader that left ends no run."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        with suppress(OSError):
            return os.write(self._descriptor, data)
        return len(data)


def _lossy(descriptor: int) -> io.TextIOWrapper:
    buffer = io.BufferedWriter(_Lossy(descriptor))
    return io.TextIOWrapper(buffer, "utf-8", errors="replace", line_buffering=True)


def _quiet(level: int = logging.WARNING) -> None:
    """Silence log messages up to `level`; what a user must know the trainer prints itself."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.disable(level)
    warnings.filterwarnings("ignore", category=FutureWarning)


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks: returning them to the kernel at each step costs
    20-30 % of a small model's time in page faults. Other C libraries ignore it."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
    except (OSError, AttributeError):
        return
