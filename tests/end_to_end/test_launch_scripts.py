"""The launch scripts, run in a copy of the repository with a stand-in for Python."""

import os
import shutil
import subprocess
import sys

import pytest
from helpers import ROOT, STAND_IN, assert_has

pytestmark = pytest.mark.slow


@pytest.fixture
def launch(tmp_path):
    """launch('local.sh', ...) -> (the process, the calls of Python in this launch)."""
    copy = tmp_path / 'a copy'
    shutil.copytree(ROOT / 'launch', copy / 'launch')
    shutil.copytree(ROOT / 'configs', copy / 'configs')
    (copy / 'tests').mkdir()
    for name in ('requirements.txt', 'tests/requirements.txt'):
        shutil.copy(ROOT / name, copy / name)
    python, calls = tmp_path / 'python3', tmp_path / 'calls'
    python.write_text(STAND_IN)
    python.chmod(0o755)
    environ = os.environ | {'PYTHON': str(python), 'CALLS': str(calls)}

    def run(script, *args, **environment):
        calls.write_text('')
        done = subprocess.run(
            ['bash', copy / 'launch' / script, *args],
            cwd=tmp_path,
            env=environ | environment,
            capture_output=True,
            text=True,
        )
        return done, [call.splitlines() for call in calls.read_text().split('--\n')[:-1]]

    run.root, run.environ = copy, environ
    return run


@pytest.mark.parametrize(
    ('args', 'config', 'workdir', 'others'),
    [
        ([], 'configs/quickstart.py', 'runs/quickstart', []),
        (['--config=configs/cifar10.py'], 'configs/cifar10.py', 'runs/cifar10', []),
        (['--config=configs/folder.py:/my images/x.py'],
         'configs/folder.py:/my images/x.py', 'runs/folder', []),
        (['--config', 'configs/cifar10.py', '--workdir', '/else where', '--config.seed', '1'],
         'configs/cifar10.py', '/else where', ['--config.seed', '1']),
        (['--config.seed=1', '--workdir'],
         'configs/quickstart.py', 'runs/quickstart', ['--config.seed=1', '--workdir']),
        (['--workdir=/else where', '--config.seed=1'],
         'configs/quickstart.py', '/else where', ['--config.seed=1']),
        (["--config.edits=('no_lrn',)", '--config=configs/lars.py', '--config.batch_size=64'],
         'configs/lars.py', 'runs/lars', ["--config.edits=('no_lrn',)", '--config.batch_size=64']),
    ],
)  # fmt: skip
def test_local(launch, args, config, workdir, others):
    """The config and workdir come first and once, then the other arguments as they were given."""
    done, calls = launch('local.sh', *args)
    assert (done.returncode, done.stderr) == (0, '')
    flags = [f'--config={config}', f'--workdir={workdir}', *others]
    assert calls[-1] == ['python', '-m', 'alexnet_jax.main', *flags]


PROCESSES = min(os.sysconf('SC_NPROCESSORS_ONLN') + 1, 4)
SPREAD = (f'--numprocesses={PROCESSES}', '--dist=loadfile', '--no-loadscope-reorder')


def test_test(launch):
    done, calls = launch('test.sh', '--all', '-k', 'a or b')
    assert (done.returncode, done.stderr) == (0, '')
    assert calls[-4:] == [
        ['ruff', 'check', '.'],
        ['ruff', 'format', '--check', '.'],
        ['pyright', '--project', '.'],
        ['python', '-m', 'pytest', *SPREAD, '--all', '-k', 'a or b'],
    ]
    _, calls = launch('test.sh', '--fast', 'tests/model')
    assert not any(call[0] == 'pyright' for call in calls)
    assert calls[-1] == ['python', '-m', 'pytest', *SPREAD, '--fast', 'tests/model']


def test_exit_code_is_passed_on(launch):
    assert launch('local.sh', MAIN='3')[0].returncode == 3
    assert launch('test.sh', MAIN='1')[0].returncode == 1
    assert launch('test.sh', RUFF='1')[0].returncode == 1


class TestVenv:
    def kinds(self, calls):
        """What each call of Python was for."""
        return [' '.join(call[1:3]) for call in calls if '-m' in call]

    def test_is_made_and_filled_once(self, launch):
        done, calls = launch('local.sh')
        assert self.kinds(calls) == ['-m venv', '-m pip', '-m alexnet_jax.main']
        pip = next(call for call in calls if 'pip' in call)
        assert pip[-2:] == ['-r', 'requirements.txt']
        assert 'installing into .venv: requirements.txt' in done.stdout
        done, calls = launch('local.sh')
        assert self.kinds(calls) == ['-m alexnet_jax.main']
        assert done.stdout == ''

    def test_is_shared(self, launch):
        launch('local.sh')
        _, calls = launch('test.sh')  # needs more
        assert self.kinds(calls) == ['-m pip', '-m pytest']
        pip = next(call for call in calls if 'pip' in call)
        assert pip[-4:] == ['-r', 'requirements.txt', '-r', 'tests/requirements.txt']
        assert self.kinds(launch('local.sh')[1]) == ['-m alexnet_jax.main']
        assert self.kinds(launch('test.sh')[1]) == ['-m pytest']

    def test_follows_the_requirements(self, launch):
        launch('local.sh')
        (launch.root / 'requirements.txt').write_text('another\n')
        assert self.kinds(launch('local.sh')[1]) == ['-m pip', '-m alexnet_jax.main']

    def test_failed_install_is_tried_again(self, launch):
        done, calls = launch('local.sh', PIP='1')
        assert done.returncode == 1
        assert self.kinds(calls) == ['-m venv', '-m pip']
        assert self.kinds(launch('local.sh')[1]) == ['-m pip', '-m alexnet_jax.main']

    def test_failed_install_of_a_caller_that_goes_on_after_errors(self, launch):
        """As SkyPilot's setup may."""
        command = '. launch/venv.sh && use_venv requirements.txt'
        for expected in (1, 1, 0):
            environ = launch.environ | {'PIP': str(expected)}
            done = subprocess.run(['bash', '-c', command], cwd=launch.root, env=environ)
            assert done.returncode == expected

    def test_a_venv_without_pip_gets_it(self, launch):
        """As where Debian's python3-venv was missing, or making .venv was cut short."""
        done, calls = launch('local.sh', NO_PIP='1', NO_ENSUREPIP='1')
        assert done.returncode == 1
        assert_has(done.stderr, 'error: .venv has no pip', 'python3-venv', 'remove .venv')
        assert self.kinds(calls) == ['-m venv', '-m ensurepip']
        _, calls = launch('local.sh', NO_PIP='1')
        assert self.kinds(calls) == ['-m ensurepip', '-m pip', '-m alexnet_jax.main']

    def refused(self, launch, *parts, **environment):
        done, calls = launch('local.sh', **environment)
        assert done.returncode == 2
        assert done.stderr.count('\n') == 1
        assert_has(done.stderr, 'error: ', *parts)
        assert self.kinds(calls) == []
        assert not (launch.root / '.venv').exists()

    def test_python_without_packages(self, launch):
        self.refused(launch, 'Python 3.9.1', '3.11, 3.12 or 3.13', 'PYTHON=', OLD='1')

    @pytest.mark.parametrize(
        ('version', 'code'),
        [('3.10.9', 1), ('3.11.0', 0), ('3.12.4', 0), ('3.13.9', 0), ('3.14.0', 1), ('4.0.0', 1)],
    )
    def test_versions(self, launch, version, code):
        """What the scripts ask Python, answered by a Python of another version."""
        _, calls = launch('local.sh')
        check = next(call for call in calls if call[1] == '-c')[2]
        numbers = tuple(map(int, version.split('.')))
        fake = f'import sys; sys.version_info = {numbers}; exec({check!r})'
        assert subprocess.run([sys.executable, '-c', fake]).returncode == code

    def test_platform_without_packages(self, launch, tmp_path):
        uname = tmp_path / 'bin' / 'uname'
        uname.parent.mkdir()
        uname.write_text('#!/bin/sh\necho Darwin x86_64\n')
        uname.chmod(0o755)
        path = f'{uname.parent}:{os.environ["PATH"]}'
        self.refused(launch, 'Darwin x86_64', 'arm64', 'aarch64', PATH=path)
