"""`python -m alexnet_jax.sweep`: what it refuses; whole sweeps are in end_to_end."""

import errno
import importlib.util
import re
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


def test_a_point_that_cannot_train_is_found_before_any_does(refused, tmp_path):
    path = tmp_path / 'space.py'
    path.write_text("def get_space():\n    return {'edits': [('no_lrn',), ('no_lnr',)]}\n")
    assert_has(refused(CONFIG, f'--sweep={path}'), "with edits=('no_lnr',): ", 'no_lnr')


@pytest.fixture
def start(monkeypatch, capsys, tmp_path):
    """start('--flag=value', ...) -> (exit code, message, what was made); no trial runs."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(local, 'probe', lambda arguments: ('cpu', 1))

    def run(*args, fault=None):
        made = {}

        class Runner:
            def __init__(self, trials, backend, folder, base, early_stopping, say, show):
                made.update(trials=trials, base=base, early_stopping=early_stopping)

            def run(self):
                if fault:
                    raise fault

        def finish(trials, folder, reports, say):
            made.update(reports=reports)

        monkeypatch.setattr(sweep, 'Runner', Runner)
        monkeypatch.setattr(sweep.results, 'finish', finish)
        command = ['sweep', CONFIG, f'--workdir={tmp_path}/sweep', *args]
        monkeypatch.setattr(sys, 'argv', command)
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
            errors.run_command(sweep.main)
        return ended.value.code, capsys.readouterr().err.strip(), made

    return run


def test_no_trial_finished(start, tmp_path):
    code, message, _ = start('--sweep=configs/sweeps/seeds.py:2')
    assert code == 1
    assert message == f'error: no trial finished; see {tmp_path}/sweep/trials.csv'


@pytest.mark.parametrize(
    ('fault', 'code'),
    [(errors.RunError('the disk is full'), 1), (errors.Interrupted('stopped', 15), 143)],
)
def test_a_sweep_that_ends_early_writes_what_it_has(start, tmp_path, fault, code):
    found, message, _ = start('--sweep=configs/sweeps/seeds.py:2', fault=fault)
    assert (found, message.removeprefix('error: ')) == (code, str(fault))
    assert (tmp_path / 'sweep' / 'trials.csv').read_text().startswith('trial,outcome,')
    assert (tmp_path / 'sweep' / 'index.html').exists()


def test_a_full_disk_is_what_the_error_says(start, monkeypatch):
    """The results cannot be written either."""

    def fail(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(sweep.results, 'write', fail)
    full = errors.RunError('trial 1: no space left; free some')
    found, message, _ = start('--sweep=configs/sweeps/seeds.py:2', fault=full)
    assert (found, message) == (1, 'error: trial 1: no space left; free some')


@pytest.mark.parametrize(
    ('flags', 'search', 'size', 'metric', 'stops', 'reports'),
    [
        ([], 'grid', 2, 'top1', False, False),
        (['--search=tpe', '--trials=7', '--metric=loss'], 'tpe', 7, 'loss', False, False),
        (['--early_stopping', '--reports'], 'grid', 2, 'top1', True, True),
    ],
)
def test_flags_arrive(start, flags, search, size, metric, stops, reports):
    _, _, made = start('--sweep=configs/sweeps/seeds.py:2', *flags)
    trials = made['trials']
    assert (trials._search, trials.size, trials.metric) == (search, size, metric)
    assert (made['early_stopping'], made['reports']) == (stops, reports)


def test_what_the_command_line_sets_is_known_even_if_the_recipe_says_the_same(start):
    space = '--sweep=configs/sweeps/seeds.py:2'
    _, _, made = start(space, '--config.batch_size=64', '--config.data.train_split=train[:9%]')
    assert made['base'].overridden == {'batch_size': 64, 'data.train_split': 'train[:9%]'}


@pytest.mark.parametrize(
    ('flags', 'change'),
    [
        (['--sweep=configs/sweeps/seeds.py:3'], r'--sweep: .* -> '),
        (['--search=random', '--trials=2'], "--search: 'grid' -> 'random'"),
        (['--metric=loss'], "--metric: 'top1' -> 'loss'"),
        (['--config.batch_size=32'], '--config.batch_size: 64 -> 32'),
        # A single run may change it.
        (['--config.early_stopping_patience=5'], '--config.early_stopping_patience: 0 -> 5'),
        (['--config.log_every=1'], None),
        (['--early_stopping'], None),
    ],
)
def test_what_may_change_when_a_sweep_goes_on(start, flags, change):
    space = '--sweep=configs/sweeps/seeds.py:2'
    start(space)
    code, message, made = start(space, *flags)
    if change is None:
        assert (code, list(made)) == (1, ['trials', 'base', 'early_stopping', 'reports'])
    else:
        assert (code, made) == (2, {})
        assert re.search(rf'a different sweep \({change}', message)


def test_a_sweep_among_the_images(refused, tmp_path):
    """Every trial would be refused, and recorded as failed."""
    recipe = tmp_path / 'recipe.py'
    recipe.write_text(
        'from alexnet_jax.configs import quickstart\n\n\n'
        'def get_config():\n    c = quickstart.get_config()\n'
        f'    c.data.name = "folder:{tmp_path}"\n    return c\n'
    )
    message = refused(f'--config={recipe}', SPACE)
    assert_has(message, f'{tmp_path}/sweep is inside the image folder', 'use one outside')


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
