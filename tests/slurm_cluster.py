"""A Slurm of one node on the loopback address, for tests: Debian's `slurm-wlm` and `munge`.

    with slurm_cluster.start() as environ:
        subprocess.run(['srun', '-n2', 'hostname'], env=environ, check=True)

starts munged, slurmctld and slurmd with a configuration, keys, ports and folders of their own, and
ends all three with every job of theirs, however the block ends. `environ` is this process's with
SLURM_CONF in it: whatever asks Slurm (srun, sbatch, submitit) needs no more. Logs are in
`Path(environ['SLURM_CONF']).parent` until then, and in the message if the start fails. By hand:

    python tests/slurm_cluster.py srun -n2 hostname
    python tests/slurm_cluster.py bash          a shell with a Slurm in it

`missing()` says why it cannot run here, for pytest.skip. It reads no configuration of the system
and installs nothing.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

DAEMONS = ('munged', 'slurmctld', 'slurmd')
NODE = 'localhost'  # JAX meets at the node's name, which has to resolve
WITH_US = ('setpriv', '--pdeathsig', 'TERM')  # ends a daemon where this process is killed
BOUND = 30  # seconds for a daemon to answer or to end

# More CPUs than there may be, so that two jobs fit. A requeued job waits for `cred_expire` seconds;
# Slurm takes 5 at least. JAX's processes meet at a port that follows from the number of the job:
# those of two clusters on one machine have to differ.
CONFIG = """
ClusterName=loopback
FirstJobId={first_job}
SlurmctldHost={hostname}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1
ReturnToService=2
KillWait=60
NodeName={node} NodeHostname={hostname} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes={node} Default=YES MaxTime=INFINITE
{extra}
"""


def missing() -> str | None:
    """Why no Slurm can be started here, or None."""
    absent = [name for name in (*DAEMONS, 'srun', 'setpriv') if not _find(name)]
    if absent:
        return f'{", ".join(absent)} not found: apt-get install slurm-wlm munge'
    return None if os.geteuid() == 0 else 'slurmd runs as root only'


@contextlib.contextmanager
def start(extra: str = '') -> Iterator[dict[str, str]]:
    """Run a Slurm for the time of the block; yields the environment to ask it.

    Args:
      extra: further lines of slurm.conf, after ours: partitions, preemption.

    Raises:
      RuntimeError: a daemon did not start; the message has its log.
    """
    # Not pytest's folder: the path of a socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix='slurm.'))
    environ = os.environ | {'SLURM_CONF': str(folder / 'slurm.conf')}
    processes = []
    try:
        _configure(folder, extra)
        _start_daemons(folder, environ, processes)
        yield environ
    finally:
        _stop(environ, processes)
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path, extra: str) -> None:
    (folder / 'state').mkdir()
    (folder / 'spool').mkdir()
    config = CONFIG.format(
        hostname=socket.gethostname().split('.')[0],
        user=getpass.getuser(),
        ports=_free_ports(2),
        folder=folder,
        node=NODE,
        first_job=1 + secrets.randbelow(60000),
        extra=extra,
    )
    (folder / 'slurm.conf').write_text(config)
    key = folder / 'munge.key'
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))


def _start_daemons(folder: Path, environ: dict[str, str], processes: list) -> None:
    munge = {'key-file': 'munge.key', 'socket': 'munge.socket', 'pid-file': 'munge.pid',
             'log-file': 'munge.log', 'seed-file': 'munge.seed'}  # fmt: skip
    options = [f'--{name}={folder / file}' for name, file in munge.items()]
    for command, answers in (
        (['munged', '--foreground', '--force', *options], (folder / 'munge.socket').exists),
        (['slurmctld', '-D', '-i'], lambda: _asks(environ, 'scontrol', 'ping')),
        (['slurmd', '-D', '-N', NODE], lambda: 'idle' in _asks(environ, 'sinfo', '-ho', '%T')),
    ):
        output = folder / f'{command[0]}.out'
        with output.open('w') as file:
            process = subprocess.Popen(
                [*WITH_US, _find(command[0]), *command[1:]], env=environ, stdout=file, stderr=file
            )
        processes.append(process)
        until = time.monotonic() + BOUND
        while not answers():
            if process.poll() is not None or time.monotonic() > until:
                logs = sorted(folder.glob(f'{command[0]}.*'))
                raise RuntimeError('\n'.join(f'{log}:\n{log.read_text()}' for log in logs))
            time.sleep(0.1)


def _stop(environ: dict[str, str], processes: list[subprocess.Popen]) -> None:
    """End the jobs, then the daemons, the last first."""
    if len(processes) == len(DAEMONS):
        _asks(environ, 'scancel', '--signal=KILL', '--full', f'--user={getpass.getuser()}')
        _asks(environ, 'scancel', f'--user={getpass.getuser()}')
        until = time.monotonic() + BOUND
        while _asks(environ, 'squeue', '-h') and time.monotonic() < until:
            time.sleep(0.1)
    for process in reversed(processes):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(BOUND)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _asks(environ: dict[str, str], *command: str) -> str:
    """What a command prints; nothing if it fails."""
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ''


def _find(name: str) -> str | None:
    return shutil.which(name, path=f'{os.environ.get("PATH", "")}:/usr/sbin')


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(('127.0.0.1', 0))
        return [s.getsockname()[1] for s in sockets]


if __name__ == '__main__':
    if reason := missing():
        sys.exit(f'error: {reason}')
    with start() as environ:
        sys.exit(subprocess.run(sys.argv[1:] or ['sinfo'], env=environ).returncode)
