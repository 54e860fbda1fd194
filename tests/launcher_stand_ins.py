"""Stand-ins for what starts training elsewhere, and for the Python that they start.

Each launcher does on this machine what it would do on others, for one of their processes. Python
appends its arguments and environment to the file $CALLS, as a line of JSON, and does nothing else
but copy itself into a venv.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

# Submit: the job starts at once, on two nodes; of an array, its last task.
SBATCH = """#!/usr/bin/env bash
set -eu
export SLURM_JOB_ID=7 SLURM_JOB_NUM_NODES=2
while [[ $1 == --* ]]; do
  case $1 in --array=*) export SLURM_ARRAY_TASK_ID=${1##*-} ;; esac
  shift
done
exec bash "$@"
"""

# Task 1 of 2.
SRUN = """#!/usr/bin/env bash
set -eu
while [[ $1 == --* ]]; do shift; done
export SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURM_STEP_NODELIST=node[1-2]
export SLURM_STEP_TASKS_PER_NODE='1(x2)' SLURM_NTASKS=2
export SLURM_PROCID=1 SLURM_LOCALID=0
exec "$@"
"""

# Process 1 of as many as -n says; as Open MPI 5 sets the variables if a coordinator is given.
MPIRUN = """#!/usr/bin/env bash
set -eu
while [[ $1 == -* ]]; do
  case $1 in -n) export OMPI_COMM_WORLD_SIZE=$2 ;; esac
  shift 2
done
export OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_LOCAL_RANK=0 OMPI_COMM_WORLD_LOCAL_SIZE=1
case $* in
  *--coordinator_address=*) ;;
  *) export OMPI_MCA_orte_hnp_uri='1441398784.0;tcp://192.0.2.2:38347' ;;
esac
exec "$@"
"""

# Host 0 of a slice of two: copies to its home, $HOST, or runs a command there.
GCLOUD = """#!/usr/bin/env bash
export TPU_WORKER_HOSTNAMES=a,b TPU_WORKER_ID=0
case "$4" in
  scp) cp "$5" "$HOST/${6#*:}" ;;
  ssh) for a in "$@"; do case "$a" in --command=*) HOME=$HOST bash -c "${a#--command=}"; exit
       esac; done ;;
esac
"""

# Pod 1 of the JobSet's Job.
KUBECTL = """
import os, sys, yaml
verb, _, path = sys.argv[1:]
assert verb == 'apply', verb
job_set = next(d for d in yaml.safe_load_all(open(path)) if d['kind'] == 'JobSet')
job = job_set['spec']['replicatedJobs'][0]['template']['spec']
container = job['template']['spec']['containers'][0]
command = [*container['command'], *container['args']]
pod = {'KUBERNETES_SERVICE_HOST': '127.0.0.1', 'JOB_COMPLETION_INDEX': '1'}
os.execvpe(command[0], command, os.environ | pod)
"""

# The second of the task's nodes.
SKY = """
import os, sys, yaml
assert sys.argv[1:-1] in (['launch'], ['jobs', 'launch']), sys.argv
task = yaml.safe_load(open(sys.argv[-1]))
node = {
    'SKYPILOT_NODE_IPS': '192.0.2.1\\n192.0.2.2',
    'SKYPILOT_NUM_NODES': str(task['num_nodes']),
    'SKYPILOT_NODE_RANK': '1',
}
os.execvpe('bash', ['bash', '-euc', task['run']], os.environ | task['envs'] | node)
"""

PYTHON = """
import json, os, shutil, sys
with open(os.environ['CALLS'], 'a') as file:
    file.write(json.dumps([sys.argv[1:], dict(os.environ)]) + '\\n')
if sys.argv[1:3] == ['-m', 'venv']:
    os.makedirs(f'{sys.argv[3]}/bin')
    shutil.copy(os.environ['SELF'], f'{sys.argv[3]}/bin/python')
"""


def by_python(code: str, options: str = '') -> str:
    """Return a script that runs code; unlike in a #! line, the path of Python may have spaces."""
    quoted = shlex.quote(code)
    return (
        '#!/usr/bin/env bash\n'
        f'SELF=$0 exec {shlex.quote(sys.executable)} {options} -c {quoted} "$@"\n'
    )


PROGRAMS = {
    'sbatch': SBATCH,
    'srun': SRUN,
    'mpirun': MPIRUN,
    'gcloud': GCLOUD,
    'kubectl': by_python(KUBECTL),
    'sky': by_python(SKY),
    **dict.fromkeys(('python', 'python3', 'python3.11'), by_python(PYTHON, '-IS')),
    **dict.fromkeys(('pip', 'docker'), '#!/usr/bin/env bash\n'),
}


def calls_of(command: str, tree: Path, tmp_path: Path) -> list[tuple[list[str], dict[str, str]]]:
    """Run a command in bash, with the stand-ins, and return the calls of Python.

    Args:
      command: The command.
      tree: The folder to run it in.
      tmp_path: An empty folder.

    Returns:
      For each call, its arguments and environment.
    """
    programs, host, calls = tmp_path / 'programs', tmp_path / 'host', tmp_path / 'calls'
    programs.mkdir()
    host.mkdir()
    calls.touch()
    for name, script in PROGRAMS.items():
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ['bash', '-euc', command],
        cwd=tree,
        env={
            'PATH': f'{programs}:{os.environ["PATH"]}',
            'HOME': str(host),
            'HOST': str(host),
            'CALLS': str(calls),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in calls.read_text().splitlines()]
