"""What starts the job elsewhere, with stand-ins for the programs that do it there.

`test_sbatch.py` runs the Slurm script on a real Slurm.
"""

import os
import subprocess

import pytest
import yaml
from helpers import ROOT, STAND_IN

from alexnet_jax.cloud.store import PACKAGES

LAUNCH = ROOT / 'launch'
FLAGS = ['--config=configs/quickstart.py', '--workdir=/a b']


def run(tmp_path, command, programs, **environment):
    """-> (the process, the calls of the programs). A program is {name: its bash script}.

    Each notes its arguments, one a line, before it does what its script says. It runs in an empty
    folder: in this one `.venv/bin` may have the real programs.
    """
    tree = tmp_path / 'tree'
    tree.mkdir(exist_ok=True)
    folder, calls = tmp_path / 'bin', tmp_path / 'calls'
    folder.mkdir(exist_ok=True)
    calls.write_text('')
    for name, script in programs.items():
        note = '{ printf "%s\\n" "$(basename "$0")" "$@"; echo --; } >> "$CALLS"'
        (folder / name).write_text(f'#!/usr/bin/env bash\n{note}\n{script}\n')
        (folder / name).chmod(0o755)
    done = subprocess.run(
        command,
        cwd=tree,
        env=os.environ
        | {'CALLS': str(calls), 'PATH': f'{folder}:{os.environ["PATH"]}'}
        | environment,
        capture_output=True,
        text=True,
    )
    return done, [call.splitlines() for call in calls.read_text().split('--\n')[:-1]]


def lines(name):
    return (LAUNCH / name).read_text().splitlines()


class TestSlurm:
    def sbatch(self, tmp_path, *flags, code=0, **environment):
        """The script, in a job whose srun ends with that code."""
        programs = {'srun': f'echo "$SRUN_CPUS_PER_TASK CPUs"; exit {code}', 'scontrol': ''}
        command = ['bash', LAUNCH / 'slurm.sbatch', *flags]
        return run(tmp_path, command, programs, SLURM_JOB_ID='7', **environment)

    def test_the_lines_to_edit(self):
        assert lines('slurm.sbatch')[1] == '# Train on a Slurm cluster. Three lines to edit:'
        assert all(line.startswith('#SBATCH --') for line in lines('slurm.sbatch')[2:5])

    def test_options_come_before_commands(self):
        """Slurm reads none after the first line that is no comment."""
        script = lines('slurm.sbatch')
        first = next(i for i, line in enumerate(script) if line and line[0] != '#')
        assert not any(line.startswith('#SBATCH') for line in script[first:])

    @pytest.mark.slow
    def test_starts_tasks(self, tmp_path):
        done, calls = self.sbatch(tmp_path, *FLAGS)
        assert (done.returncode, done.stderr) == (0, '')
        assert calls == [['srun', 'python', '-m', 'alexnet_jax.main', *FLAGS]]

    @pytest.mark.slow
    def test_tasks_have_their_cpus(self, tmp_path):
        done, _ = self.sbatch(tmp_path, *FLAGS, SLURM_CPUS_PER_TASK='64')
        assert done.stdout == '64 CPUs\n'

    @pytest.mark.slow
    def test_array(self, tmp_path):
        _, calls = self.sbatch(tmp_path, *FLAGS, SLURM_ARRAY_TASK_ID='3')
        assert calls[0][4:] == [*FLAGS, '--config.seed=3', '--workdir=/a b/3']

    @pytest.mark.slow
    def test_array_with_one_seed(self, tmp_path):
        _, calls = self.sbatch(tmp_path, *FLAGS, '--config.seed=5', SLURM_ARRAY_TASK_ID='3')
        assert calls[0][-2:] == ['--config.seed=5', '--workdir=/a b/3']

    @pytest.mark.slow
    def test_array_without_workdir(self, tmp_path):
        done, calls = self.sbatch(tmp_path, FLAGS[0], SLURM_ARRAY_TASK_ID='3')
        assert done.returncode == 1
        assert 'pass --workdir=DIR' in done.stderr
        assert calls == []

    @pytest.mark.slow
    def test_saved_before_the_time_limit(self, tmp_path):
        done, calls = self.sbatch(tmp_path, *FLAGS, code=143)
        assert done.returncode == 143
        assert calls[1] == ['scontrol', 'requeue', '7']

    @pytest.mark.slow
    def test_only_the_task_of_an_array_is_queued_again(self, tmp_path):
        """Of one task, the job has the number of the array."""
        array = {'SLURM_ARRAY_JOB_ID': '7', 'SLURM_ARRAY_TASK_ID': '3'}
        done, calls = self.sbatch(tmp_path, *FLAGS, code=143, **array)
        assert done.returncode == 143
        assert calls[1] == ['scontrol', 'requeue', '7_3']

    @pytest.mark.slow
    @pytest.mark.parametrize('code', [0, 1, 2, 3, 130, 137])
    def test_other_ends(self, tmp_path, code):
        done, calls = self.sbatch(tmp_path, *FLAGS, code=code)
        assert done.returncode == code
        assert len(calls) == 1


class TestTPU:
    """A gcloud that copies to one folder, the host's home, and runs the command there."""

    GCLOUD = """
    case "$4" in
      scp) cp "$5" "$HOST/${6#*:}" ;;
      ssh) for a in "$@"; do case "$a" in --command=*) HOME=$HOST bash -c "${a#--command=}"; exit
           esac; done ;;
    esac"""

    @pytest.fixture
    def tpu(self, tmp_path):
        if not (ROOT / '.git').exists():
            pytest.skip('tpu.sh copies what git tracks, and this is no git checkout')
        host = tmp_path / 'host'
        host.mkdir()
        # It notes itself what it is called with, and copies itself into .venv.
        python = STAND_IN.split('\n', 2)[2]

        def call(*args, **environment):
            command = ['bash', LAUNCH / 'tpu.sh', *args]
            programs = {'gcloud': self.GCLOUD, 'python3.11': python}
            return run(tmp_path, command, programs, HOST=str(host), **environment)

        call.host = host
        return call

    def test_the_lines_to_edit(self):
        assert lines('tpu.sh')[1].endswith('Three lines to edit:')
        assert [line.split('=')[0] for line in lines('tpu.sh')[2:5]] == ['NAME', 'ZONE', 'PROJECT']

    @pytest.mark.slow
    def test_starts_all_hosts(self, tpu):
        done, calls = tpu(*FLAGS)
        assert (done.returncode, done.stderr) == (0, '')
        gcloud = [call for call in calls if call[0] == 'gcloud']
        assert [call[4] for call in gcloud] == ['scp', 'ssh']
        assert all('--worker=all' in call and '--zone=us-central1-a' in call for call in gcloud)
        assert calls[-1] == ['python', '-m', 'alexnet_jax.main', *FLAGS]
        (pip,) = [call for call in calls if call[1:4] == ['-m', 'pip', 'install']]
        assert pip[-4:] == ['-r', 'requirements.txt', '-r', 'tpu.txt']
        assert (tpu.host / 'alexnet/tpu.txt').read_text().splitlines() == [
            'jax[tpu]==0.10.2',
            PACKAGES['gs'],
        ]
        assert (tpu.host / 'alexnet/alexnet_jax/main.py').exists()
        head = subprocess.run(
            ['git', 'rev-parse', 'HEAD'], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        assert f'export ALEXNET_JAX_REVISION={head}' in ' '.join(gcloud[1])

    @pytest.mark.slow
    def test_a_second_start_finds_no_code_of_the_first(self, tpu):
        old = ('alexnet_jax/renamed.py', 'configs/deleted.py')
        kept = ('runs/x/config.json', 'data/digits')
        for name in (*old, *kept):
            path = tpu.host / 'alexnet' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        assert tpu(*FLAGS)[0].returncode == 0
        assert not [name for name in old if (tpu.host / 'alexnet' / name).exists()]
        assert all((tpu.host / 'alexnet' / name).exists() for name in kept)
        assert (tpu.host / 'alexnet/alexnet_jax/configs/quickstart.py').exists()

    @pytest.mark.slow
    def test_exit_code_is_passed_on(self, tpu):
        assert tpu(*FLAGS, MAIN='3')[0].returncode == 3

    @pytest.mark.slow
    def test_stop_and_a_second_start(self, tpu):
        with subprocess.Popen(['sleep', '100']) as training:
            (tpu.host / 'alexnet.pid').write_text(f'{training.pid}\n')
            done, calls = tpu(*FLAGS)
            assert done.returncode == 2
            assert 'error: this host is already training' in done.stderr
            assert [call[0] for call in calls] == ['gcloud', 'gcloud']
            done, _ = tpu('stop')
            assert (done.returncode, done.stderr) == (0, '')
            assert training.wait(10) == -15


class TestSky:
    @pytest.fixture
    def task(self):
        return yaml.safe_load((LAUNCH / 'sky.yaml').read_text())

    def test_the_lines_to_edit(self):
        assert lines('sky.yaml')[0].endswith('Three entries to edit:')
        keys = [line.split(':')[0] for line in lines('sky.yaml')[1:4]]
        assert keys == ['num_nodes', 'resources', 'envs']

    @pytest.mark.slow
    @pytest.mark.parametrize('rank', ['0', '1'])
    def test_run(self, tmp_path, task, rank):
        done, calls = run(
            tmp_path,
            ['bash', '-c', task['run']],
            {'python': ''},
            **task['envs'],
            SKYPILOT_NODE_IPS='127.0.0.5\n127.0.0.6',
            SKYPILOT_NUM_NODES='2',
            SKYPILOT_NODE_RANK=rank,
        )
        assert (done.returncode, done.stderr) == (0, '')
        (call,) = calls
        assert call == [
            'python', '-m', 'alexnet_jax.main', *task['envs']['FLAGS'].split(),
            '--coordinator_address=127.0.0.5:29500', '--num_processes=2', f'--process_id={rank}',
        ]  # fmt: skip

    def test_the_workdir_is_in_the_bucket(self, task):
        assert task['file_mounts']['/runs'] == {'source': '${BUCKET}', 'mode': 'MOUNT'}
        assert '--workdir=/runs/' in task['envs']['FLAGS']
        check_recipe(task['envs']['FLAGS'].split())

    def test_the_data_is_copied_from_the_bucket(self, task):
        (data,) = task['file_mounts'].keys() - {'/runs'}
        assert task['file_mounts'][data].startswith('${BUCKET}/')  # a string: SkyPilot copies it
        assert f'--config.data.name=prepared:{data}' in task['envs']['FLAGS'].split()


class TestKubernetes:
    @pytest.fixture
    def documents(self):
        found = list(yaml.safe_load_all((LAUNCH / 'k8s-jobset.yaml').read_text()))
        return {document['kind']: document for document in found}

    @pytest.fixture
    def job(self, documents):
        (hosts,) = documents['JobSet']['spec']['replicatedJobs']
        return hosts['template']['spec']

    def test_the_lines_to_edit(self):
        marked = [line.split()[0] for line in lines('k8s-jobset.yaml') if '# <- ' in line]
        assert marked == ['parallelism:', 'image:', 'args:']

    def test_job_set(self, documents, job):
        """What the JobSet and Job APIs require, and JAX to find the pods."""
        assert documents['JobSet']['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
        assert documents['JobSet']['spec']['failurePolicy']['maxRestarts'] > 0
        assert job['parallelism'] == job['completions'] == 2
        assert job['completionMode'] == 'Indexed'
        assert job['template']['spec']['restartPolicy'] == 'Never'  # for a podFailurePolicy
        (rule,) = job['podFailurePolicy']['rules']
        assert rule['onExitCodes']['values'] == [2, 3]

    def test_container(self, job):
        pod = job['template']['spec']
        (container,) = pod['containers']
        assert container['command'] == ['python', '-m', 'alexnet_jax.main']
        check_recipe(container['args'])
        (mount,), (volume,) = container['volumeMounts'], pod['volumes']
        assert mount['name'] == volume['name']
        assert container['args'][1].startswith(f'--workdir={mount["mountPath"]}/')

    def test_jax_may_ask_for_the_pods(self, documents, job):
        """What jax/_src/clusters/k8s_cluster.py calls for a pod of a JobSet."""
        account, role = documents['ServiceAccount'], documents['Role']
        assert job['template']['spec']['serviceAccountName'] == account['metadata']['name']
        allowed = {(r['resources'][0], *r['verbs']) for r in role['rules']}
        assert allowed == {('pods', 'list'), ('jobs', 'get')}
        binding = documents['RoleBinding']
        assert binding['roleRef']['name'] == role['metadata']['name']
        (subject,) = binding['subjects']
        assert subject == {'kind': 'ServiceAccount', 'name': account['metadata']['name']}


def check_recipe(flags):
    config = flags[0].removeprefix('--config=')
    assert (ROOT / config).is_file()
