"""`main --mode=eval` on a real run, against NumPy and what training recorded."""

import contextlib
import csv
import fcntl
import functools
import io
import json
import os
import subprocess
import sys

import cli_runs
import jax
import numpy as np
import pytest

from alexnet_jax import main
from alexnet_jax.model import variants
from alexnet_jax.run import checkpoint, recorded_config

pytestmark = pytest.mark.slow

FLAGS = (
    '--config.epochs=0.45',  # 10 steps
    '--config.log_every=5',
    '--config.eval_every=5',
    '--config.checkpoint_every=5',
)
TEN_CROP = 'decode|resize(32)|ten_crop(28)'


@pytest.fixture(scope='module')
def run(tmp_path_factory, cache):
    """A workdir with checkpoints of steps 5 and 10, trained on one device."""
    folder = tmp_path_factory.mktemp('ensemble') / 'run'
    cli_runs.train(folder, cache, *FLAGS)
    return folder


@pytest.fixture
def command(monkeypatch, call):
    """command('--flag=value', ...) -> (exit code, stdout, stderr) of `main --mode=eval`."""
    monkeypatch.chdir(cli_runs.ROOT)
    return functools.partial(call, main, '--mode=eval')


@pytest.fixture
def evaluate(command):
    """evaluate('--flag=value', ...) -> the record that is written, and stdout."""

    def call(*args):
        code, out, err = command(*args)
        assert (code, err) == (0, '')
        stem = out.splitlines()[-1].removeprefix('files').strip().split('{')[0]
        with open(stem + '.json') as file:
            return json.load(file), out

    return call


def predictions(run, step, ops) -> np.ndarray:
    """float64 [360, classes] by NumPy: the mean over views of softmax of the model's logits."""
    from alexnet_jax.data import statistics
    from alexnet_jax.data.pipeline import Data

    config = recorded_config.get_config(f'{run}/config.json')
    config.data.eval_ops = ops
    mean = statistics.load(run / 'statistics.npz').center(28)
    model, found = variants.make_model(config), checkpoint.load_variables(str(run), step)
    apply = jax.jit(lambda image, variables=found: model.apply(variables, image))
    found = []
    for batch in Data(config).eval_batches():
        image = batch['image'].reshape(64, -1, 28, 28, 3)
        logits = [np.float64(apply(image[:, i] - mean)) for i in range(image.shape[1])]
        softmax = [np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in logits]
        found.append(np.mean(softmax, axis=0)[batch['mask'] > 0])
    return np.concatenate(found)


def labels() -> np.ndarray:
    """Of the digits' test split: the last 360 in scikit-learn's order."""
    from sklearn.datasets import load_digits

    return load_digits().target[-360:]


def assert_scores(record, probabilities):
    label = labels()
    assert record['examples'] == 360
    assert record['top1_error'] == np.mean(probabilities.argmax(1) != label)
    better = probabilities > probabilities[np.arange(360), label][:, None]
    assert record['top5_error'] == np.mean(better.sum(1) >= 5)
    loss = -np.log(probabilities[np.arange(360), label]).mean()
    assert record['cross_entropy'] == pytest.approx(loss, rel=1e-5)


def files_of(folder) -> dict:
    """Every file but those of evaluations, with its bytes."""
    paths = [p for p in folder.rglob('*') if p.is_file() and p.parent.name != 'eval']
    return {p.relative_to(folder): p.read_bytes() for p in paths}


# The command


def test_the_run_itself(evaluate, run):
    """What training recorded at the best checkpoint, on other devices; the run is left alone."""
    before = files_of(run)
    with open(run / '.lock', 'a') as lock:  # as if it were training
        fcntl.flock(lock, fcntl.LOCK_EX)
        record, out = evaluate(f'--workdir={run}')
    assert files_of(run) == before
    evals = {r['step']: r for r in cli_runs.records(run, 'eval')}
    best = max(evals, key=lambda step: (evals[step]['top1'], step))
    assert record['members'] == [
        {'workdir': str(run), 'step': best, 'variant': 'digits', 'edits': []}
    ]
    assert record['top1_error'] == pytest.approx(1 - evals[best]['top1'], abs=1e-12)
    assert record['top5_error'] == pytest.approx(1 - evals[best]['top5'], abs=1e-12)
    assert record['cross_entropy'] == pytest.approx(evals[best]['loss'], rel=1e-5)
    assert (record['examples'], record['bad_images'], record['views']) == (360, 0, 1)
    assert f'net             {run}, step {best}\n' in out
    assert f'top-1 error     {record["top1_error"]:.2%}\n' in out
    stem = f'{run}/eval/digits-test-resize_36-center_crop_28-step_{best}'
    assert out.endswith(
        f'files           {stem}{{.per_class.csv,.confusion.csv,.wrong.csv,.json}}\n'
    )


@pytest.mark.exhaustive
def test_ten_crops_of_the_workdirs_config(evaluate, run):
    record, out = evaluate(f'--workdir={run}', f'--eval_ops={TEN_CROP}', f'--checkpoints={run}@5')
    assert (record['views'], record['ops'], record['members'][0]['step']) == (10, TEN_CROP, 5)
    assert_scores(record, predictions(run, 5, TEN_CROP))
    assert f'{TEN_CROP}  (10 views of each image)' in out
    assert recorded_config.get_config(f'{run}/config.json').data.eval_ops != TEN_CROP


def test_an_ensemble_and_its_files(evaluate, run, tmp_path):
    """Two nets, three views, into a folder that holds no run."""
    ops = 'decode|resize(32)|crops(28, 3)'
    record, _ = evaluate(
        f'--workdir={tmp_path}/both', f'--checkpoints={run}@5,{run}@10', f'--eval_ops={ops}'
    )
    assert [member['step'] for member in record['members']] == [5, 10]
    probabilities = (predictions(run, 5, ops) + predictions(run, 10, ops)) / 2
    assert_scores(record, probabilities)
    stem = 'digits-test-resize_32-crops_28_3-run_5-run_10'
    folder = tmp_path / 'both' / 'eval'
    endings = ('.confusion.csv', '.json', '.per_class.csv', '.wrong.csv')
    assert sorted(p.name for p in folder.iterdir()) == [stem + ending for ending in endings]
    _, *rows = csv.reader(io.StringIO((folder / f'{stem}.confusion.csv').read_text()))
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels(), probabilities.argmax(1)), 1)
    assert [[int(n) for n in row[1:]] for row in rows] == confusion.tolist()
    _, *rows = csv.reader(io.StringIO((folder / f'{stem}.per_class.csv').read_text()))
    for name, examples, top1, _ in rows:
        assert int(examples) == np.sum(labels() == int(name))
        assert float(top1) == confusion[int(name), int(name)] / int(examples)
    _, *rows = csv.reader(io.StringIO((folder / f'{stem}.wrong.csv').read_text()))
    wrong = np.flatnonzero(labels() != probabilities.argmax(1)).tolist()
    assert {row[0]: (row[1], row[2]) for row in rows} == {
        f'digits/test:{i}': (str(labels()[i]), str(probabilities[i].argmax())) for i in wrong
    }


SLOW = """
import time
from alexnet_jax import main
from alexnet_jax.data.pipeline import Data
from alexnet_jax.errors import run_command

def slow_batches(data, batches=Data.eval_batches):
    for batch in batches(data):
        print('a batch', flush=True)
        time.sleep(60)
        yield batch

Data.eval_batches = slow_batches
run_command(main.main)
"""


@pytest.mark.exhaustive
def test_sigterm_to_one_of_two_processes(run, cache, tmp_path):
    """It ends at once: there is nothing to save, and no step at which all could stop."""
    address = f'--coordinator_address=127.0.0.1:{cli_runs.free_port()}'
    with contextlib.ExitStack() as stack:
        for number in (0, 1):
            flags = (f'--workdir={run}', '--mode=eval', address, '--num_processes=2')
            stderr = stack.enter_context((tmp_path / f'{number}.err').open('w'))
            process = subprocess.Popen(
                [sys.executable, '-c', SLOW, *flags, f'--process_id={number}'],
                cwd=cli_runs.ROOT,
                env=os.environ | cli_runs.environment(cache, 1),
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
        assert any('a batch' in line for line in process.stdout)
        process.terminate()
        assert process.wait(30) == 143
    assert (tmp_path / '1.err').read_text().splitlines()[-1] == 'interrupted'


@pytest.mark.exhaustive
def test_devices_and_processes_do_not_matter(evaluate, run, cache, tmp_path):
    """Eight devices (this process), one device, and two processes of two devices."""
    flags = ('--mode=eval', f'--eval_ops={TEN_CROP}', f'--checkpoints={run}@10')
    expected, _ = evaluate(f'--workdir={tmp_path}/eight', *flags)
    cli_runs.train(tmp_path / 'one', cache, *flags)
    with cli_runs.two_processes(tmp_path / 'two', cache, *flags) as processes:
        (code, out, err), (code2, out2, err2) = [process.finish() for process in processes]
    assert (code, code2) == (0, 0), err + err2
    assert 'top-1 error' in out
    assert 'top-1 error' not in out2
    stem = 'digits-test-resize_32-ten_crop_28-run_10'
    eight = tmp_path / 'eight' / 'eval'
    for name in ('one', 'two'):
        folder = tmp_path / name / 'eval'
        found = json.loads((folder / f'{stem}.json').read_text())
        loss = found.pop('cross_entropy')
        assert loss == pytest.approx(expected['cross_entropy'], rel=1e-6)
        for key in ('top1_error', 'top5_error', 'examples', 'bad_images', 'members', 'views'):
            assert found[key] == expected[key], (name, key)
        csvs = [f'{stem}.per_class.csv', f'{stem}.confusion.csv']
        assert [(folder / c).read_text() for c in csvs] == [(eight / c).read_text() for c in csvs]
        wrong = [
            sorted(line.split(',')[:3] for line in (parent / f'{stem}.wrong.csv').open())
            for parent in (folder, eight)
        ]
        assert wrong[0] == wrong[1]


def test_a_config_that_differs_in_training_only(evaluate, run):
    """Its rate, batch size and seed are not the run's; its network and data are."""
    record, _ = evaluate(
        '--config=configs/quickstart.py', '--config.batch_size=100', f'--workdir={run}'
    )
    assert record['examples'] == 360


# Bad input


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ('', "pass --workdir=DIR, the run's folder"),
        ('--workdir=nowhere', 'nowhere holds no run: cannot read nowhere/config.json'),
        ('--workdir={tmp}/x --checkpoints={run}@7',
         '{run} has no checkpoint of step 7; it has 10, 5 (best: '),
        ('--workdir={tmp}/x --checkpoints={run},',
         '--checkpoints names no folder; it must be DIR[@STEP],DIR[@last],...'),
        ('--workdir={tmp}/x --checkpoints={run}@best', '{run}@best holds no run: '),
        ('--workdir={run} --config=configs/cifar10.py',
         "the network in {run} has variant='digits', but this evaluation has 'cifar10_18pct'; "
         'leave out --config'),
        ('--workdir={run} --checkpoints={run} --config=configs/cifar10.py',
         'the network in {run} has image_size=28, but this evaluation has 32; all nets of an '
         'ensemble must have the same num_classes and image_size'),
        ('--workdir={run} --eval_ops=', "ops '': unknown op ''; allowed: decode"),
        ('--workdir={run} --eval_ops=decode|rezise(28)',
         "ops 'decode|rezise(28)': unknown op 'rezise(28)'"),
        ('--workdir={run} --eval_ops=decode|resize(30)',
         "data.eval_ops='decode|resize(30)' produces images of 30 x 30"),
        ('--workdir={run} --eval_ops=decode|random_crop(28)',
         "data.eval_ops='decode|random_crop(28)': evaluation uses no random op"),
        ('--workdir={run}/config.json/x --checkpoints={run}',
         'cannot create workdir {run}/config.json/x'),
        ('--workdir={run} --mode=evl', 'flag --mode=evl: value should be one of <train|eval>'),
    ],
)  # fmt: skip
def test_refusals(command, run, tmp_path, args, message):
    code, out, err = command(*(word.format(run=run, tmp=tmp_path) for word in args.split()))
    assert (code, out) == (2, ''), err
    assert err.startswith('error: ' + message.format(run=run, tmp=tmp_path))
    assert err.count('\n') == 1
    assert not (tmp_path / 'x').exists()


def test_flags_of_eval_while_training(command):
    for flag in ('--eval_ops=decode', '--checkpoints=x'):
        args = ('--mode=train', '--config=configs/quickstart.py', '--workdir=unused', flag)
        assert command(*args) == (2, '', f'error: {flag.split("=")[0]} needs --mode=eval\n')
