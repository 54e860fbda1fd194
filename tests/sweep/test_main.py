"""`python -m alexnet_jax.sweep`: what it refuses; whole sweeps are in end_to_end."""

import importlib.util
import sys

import pytest
from absl.testing import flagsaver
from buckets import new_url
from helpers import ROOT, assert_has

from alexnet_jax import errors
from alexnet_jax.cloud.store import Store
from alexnet_jax.sweep import __main__ as sweep
from alexnet_jax.sweep.backends import local, slurm

CONFIG = '--config=configs/quickstart.py'
SPACE = '--sweep=configs/sweeps/lr_lrn.py'


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """refused('--flag=value', ...) -> the message; nothing is started or written."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(local, 'probe', lambda arguments: ('gpu', 2))

    def run(*args):
        folder = tmp_path / 'sweep'
        monkeypatch.setattr(sys, 'argv', ['sweep', *args, f'--workdir={folder}'])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as exit_info:
            errors.run_command(sweep.main)
        out, err = capsys.readouterr()
        assert (exit_info.value.code, out) == (2, ''), err
        assert err.startswith('error: ')
        assert err.count('\n') == 1
        assert not folder.exists()
        return err.strip()

    return run


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ([CONFIG], 'pass --config=configs/NAME.py, --sweep=configs/sweeps/NAME.py and --workdir'),
        ([SPACE], 'pass --config=configs/NAME.py, --sweep='),
        ([CONFIG, SPACE, 'x'], "unexpected argument 'x'"),
        ([CONFIG, SPACE, '--config.sed=1'], 'unknown config key sed; did you mean seed?'),
        ([CONFIG, SPACE, '--config.batch_size=0'], 'batch_size=0; it must be above 0'),
        ([CONFIG, '--sweep=configs/sweeps/lr_lr.py'], 'does not exist; did you mean'),
        ([CONFIG, SPACE, '--search=bayes'], '--search=bayes; allowed: grid, random, tpe'),
        ([CONFIG, SPACE, '--backend=k8s'], '--backend=k8s; allowed: local, slurm, ray'),
        ([CONFIG, SPACE, '--metric=top2'], '--metric=top2; allowed: top1, top5, loss'),
        ([CONFIG, SPACE, '--trials=3'], '--search=grid runs every point; omit --trials'),
        ([CONFIG, SPACE, '--search=tpe'], '--search=tpe needs --trials=N'),
        ([CONFIG, SPACE, '--search=tpe', '--trials=0'], '--trials=0; it must be at least 1'),
        ([CONFIG, SPACE, '--max_parallel=0'], '--max_parallel=0; it must be at least 1'),
        ([CONFIG, SPACE, '--sbatch=partition=x'], '--sbatch needs --backend=slurm'),
        ([CONFIG, SPACE, '--devices_per_trial=4'], 'but this machine has 2 gpu devices'),
    ],
)
def test_bad_input(refused, args, message):
    assert message in refused(*args)


def test_packages_that_are_missing(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, 'submitit', None)
    monkeypatch.setitem(sys.modules, 'ray', None)
    message = refused(CONFIG, SPACE, '--backend=slurm')
    assert message == 'error: --backend=slurm needs submitit: pip install submitit==1.5.4'
    message = refused(CONFIG, SPACE, '--backend=ray')
    assert message == 'error: --backend=ray needs Ray: pip install ray==2.60.0'


@pytest.mark.skipif(not importlib.util.find_spec('submitit'), reason='needs submitit')
def test_no_slurm(refused, monkeypatch):
    monkeypatch.setattr(slurm.shutil, 'which', lambda _: None)
    assert 'Slurm not found (no sbatch on the PATH)' in refused(CONFIG, SPACE, '--backend=slurm')


@pytest.mark.parametrize(
    ('workdir', 'flags', 'parts'),
    [
        ('{run}', [], ['{run} holds a run, not a sweep']),
        ('{url}', [], ['{url} holds a run, not a sweep']),
        ('{url}', ['--backend=slurm'], ['--backend=slurm', 'do not see', '{url}']),
        ('{url}', ['--backend=ray'], ['--backend=ray', 'do not see', '{url}']),
        ('{run}/a[1]', [], ['{run}/a[1]', 'in its path']),
        ('ftp://x/y', [], ['ftp://x/y', 'local folder or gs:// or s3://']),
        ('{run}', ['--scratch=/tmp/x'], ['--scratch=/tmp/x is for', '{run} is local']),
    ],
)
def test_a_workdir_that_cannot_be_a_sweep(tmp_path, monkeypatch, capsys, workdir, flags, parts):
    monkeypatch.chdir(ROOT)
    (tmp_path / 'config.json').write_text('{}')
    url = new_url()
    Store(url).write('config.json', b'{}')
    folder = workdir.format(run=tmp_path, url=url)
    monkeypatch.setattr(sys, 'argv', ['sweep', CONFIG, SPACE, f'--workdir={folder}', *flags])
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
        errors.run_command(sweep.main)
    text = capsys.readouterr().err
    assert ended.value.code == 2, text
    assert_has(text, *(part.format(run=tmp_path, url=url) for part in parts))


def test_the_install_lines_are_those_of_pyproject():
    text = (ROOT / 'pyproject.toml').read_text()
    assert '"submitit==1.5.4"' in text
    assert '"ray==2.60.0"' in text
