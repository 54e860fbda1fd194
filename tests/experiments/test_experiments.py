"""The harness, around a trainer that only writes records; and what the records come to, by hand."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import ROOT

from alexnet_jax.errors import BadInput, Interrupted, RunError
from alexnet_jax.experiments import __main__ as experiments
from alexnet_jax.experiments import session as sessions
from alexnet_jax.experiments.catalog import (
    DROPOUT,
    EXPERIMENTS,
    NORM_AND_POOL,
    SCHEDULE,
    Experiment,
    dropout_figure,
    dropout_table,
    norm_table,
    of_list,
    schedule_table,
)
from alexnet_jax.experiments.records import Record, Records, Trial, epochs_to, smooth
from alexnet_jax.experiments.relu_vs_tanh import best_rate, make_trial, next_trial, nth_rate
from alexnet_jax.experiments.relu_vs_tanh import figure as relu_figure
from alexnet_jax.experiments.relu_vs_tanh import table as relu_table
from alexnet_jax.experiments.session import Session
from alexnet_jax.experiments.tables import spread

FAKE = (sys.executable, str(Path(__file__).with_name('fake_trainer.py')))
SLOW = {'pause': 0.1}  # seconds an epoch


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sessions, 'POLL', 0.02)
    monkeypatch.setenv('PYTHONPATH', str(ROOT))


def run(*trials: Trial, minutes: float | None = None, seeds: int = 1) -> list[dict]:
    """Run an experiment of these trials; its records as they lie in the file."""
    experiment = Experiment('a test', of_list(trials), lambda records: 'the table')
    with Session(Path('runs/experiments/x'), minutes, trainer=FAKE) as session:
        experiments.run('x', experiment, session, seeds)
    return recorded()


def recorded() -> list[dict]:
    return [json.loads(line) for line in Path('results/x.jsonl').read_text().splitlines()]


def starts(name: str) -> list[int]:
    """Epoch from which each start of a trial went on."""
    return [int(n) for n in Path(f'runs/experiments/x/{name}/starts').read_text().split()]


def after_a_record(action) -> None:
    """Start to wait for the first record of trial a, then do something to it."""
    metrics = Path('runs/experiments/x/a_seed0/metrics.jsonl').absolute()

    def wait():
        while not metrics.exists() or b'\n' not in metrics.read_bytes():
            time.sleep(0.02)
        action()

    threading.Thread(target=wait, daemon=True).start()


# Running


@pytest.mark.slow
def test_trials_run_for_each_seed_and_leave_their_records(capsys):
    found = run(Trial('a', 'configs/a.py', {'edits': ('no_lrn',)}, 2.0),
                Trial('b', 'configs/b.py', {}, 1.0), seeds=2)  # fmt: skip
    assert [(r['trial'], r['seed']) for r in found] == [('a', 0), ('b', 0), ('a', 1), ('b', 1)]
    del found[0]['revision']
    assert found[0] == {
        'trial': 'a',
        'seed': 0,
        'config': 'configs/a.py',
        'overrides': {'edits': ['no_lrn']},
        'epochs': 2.0,
        'epoch': 2.0,
        'state': 'finished',
        'seconds': 4.0,  # two records of 100 examples at 50 a second
        'train': [[1.0, 0.8, 1.0], [2.0, 0.4, 1.0]],
        'eval': [[2.0, 0.4, 1.0]],
        'scores': {
            'step': 2, 'epoch': 2.0, 'split': 'eval', 'loss': 1.0, 'top1': 0.6, 'top5': 1.0,
            'examples': 100, 'bad_images': 0, 'images_per_second': 50.0,
        },
    }  # fmt: skip
    output = capsys.readouterr().out
    assert 'the table' in output
    assert '0:00:12 of training' in output  # 4 + 2 seconds, twice


@pytest.mark.slow
def test_what_is_recorded_is_skipped_though_its_workdir_is_gone():
    trial = Trial('a', 'configs/a.py', {}, 1.0)
    before = run(trial)
    Path('runs').rename('elsewhere')
    assert run(trial) == before
    assert not Path('runs').exists()


@pytest.mark.slow
def test_more_epochs_continue_from_the_workdir():
    run(Trial('a', 'configs/a.py', {}, 2.0))
    found = run(Trial('a', 'configs/a.py', {}, 3.0))
    assert starts('a_seed0') == [0, 2]
    assert [(r['epochs'], r['seconds']) for r in found] == [(3.0, 6.0)]


@pytest.mark.slow
def test_the_budget_stops_a_trial_and_the_same_command_continues(capsys):
    trial = Trial('a', 'configs/a.py', SLOW, 30.0)
    (part,) = run(trial, minutes=1.5 / 60)
    assert part['state'] == 'stopped'
    assert 0 < part['epoch'] < 30
    assert 'the budget is spent; run the same command again to continue' in capsys.readouterr().out
    (whole,) = run(trial)
    assert (whole['state'], whole['epoch'], whole['seconds']) == ('finished', 30.0, 60.0)
    assert starts('a_seed0') == [0, part['epoch']]
    assert 'budget' not in capsys.readouterr().out


@pytest.mark.slow
def test_a_trial_begun_again_elsewhere_keeps_the_further_record():
    trial = Trial('a', 'configs/a.py', {}, 12.0)
    records = Records(Path('results/x.jsonl'))
    for epoch in (5.0, 3.0):
        records.put(record(trial, [(epoch, 0.5, 1)], state='stopped'))
    assert records.find(trial, 0).epoch == 5.0
    records.put(record(trial, [(7.0, 0.5, 1)], state='stopped'))
    assert [r['epoch'] for r in recorded()] == [7.0]


@pytest.mark.slow
def test_a_target_ends_a_trial_and_the_next_one_starts():
    # 0.8 / e averaged over an epoch is below 0.15 first at e = 6.
    found = run(Trial('a', 'configs/a.py', SLOW, 60.0, until=0.15),
                Trial('b', 'configs/b.py', {}, 1.0))  # fmt: skip
    a, b = found
    assert (a['state'], b['state']) == ('stopped', 'finished')
    assert 6 <= a['epoch'] < 20
    assert epochs_to(a['train'], 0.15) == 6.0


@pytest.mark.slow
@pytest.mark.parametrize('epoch', [1, 3])
def test_divergence_is_a_result(epoch):
    trials = Trial('a', 'configs/a.py', {'diverges': epoch}, 5.0), Trial('b', 'configs/b.py', {}, 1)
    found = [(r['trial'], r['state'], r['epoch']) for r in run(*trials)]
    assert found == [('a', 'diverged', epoch - 1.0), ('b', 'finished', 1.0)]
    run(*trials)
    assert starts('a_seed0') == [0]


@pytest.mark.slow
def test_a_trial_that_someone_else_stopped_is_not_started_again_at_once():
    def stop():
        os.kill(int(Path('runs/experiments/x/a_seed0/pid').read_text()), signal.SIGTERM)

    after_a_record(stop)
    with pytest.raises(RunError, match='a was stopped; run the same command again to continue'):
        run(Trial('a', 'configs/a.py', SLOW, 100.0))


@pytest.mark.slow
def test_the_output_of_a_trial_is_printed_once(capfd, tmp_path):
    """As it is written, also in the start that continues it."""
    loud = tmp_path / 'loud.py'
    loud.write_text(
        'import runpy, sys\n'
        f'print("epochs", sys.argv[-1].split("=")[1], flush=True)\n'
        f'runpy.run_path({str(FAKE[1])!r})\n'
    )
    with Session(Path('runs'), trainer=(sys.executable, str(loud))) as session:
        for epochs in (1.0, 2.0):
            session.run(Trial('a', 'configs/a.py', {}, epochs), 0)
            assert capfd.readouterr().out == f'epochs {epochs}\n'


@pytest.mark.slow
def test_a_second_signal_ends_the_trial_at_once(tmp_path):
    stubborn = tmp_path / 'stubborn.py'
    stubborn.write_text(
        'import signal, sys, time\n'
        'told = []\n'
        'def stop(*_):\n'
        '    told.append(1)\n'
        '    if len(told) == 2:\n'
        '        sys.exit(143)\n'
        'signal.signal(signal.SIGTERM, stop)\n'
        'print("ready", flush=True)\n'
        'time.sleep(60)\n'
    )
    output = Path('runs/a_seed0/output.txt')

    def send():
        while not output.exists() or 'ready' not in output.read_text():
            time.sleep(0.02)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    before = time.monotonic()
    with Session(Path('runs'), trainer=(sys.executable, str(stubborn))) as session:
        assert session.run(Trial('a', 'configs/a.py', {}, 1.0), 0) is None
        assert time.monotonic() - before < 50
        with pytest.raises(Interrupted):
            session.is_over  # noqa: B018
        sender.join()


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_trial_saved_and_recorded(number):
    after_a_record(lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match='run the same command again to continue') as stopped:
        run(Trial('a', 'configs/a.py', SLOW, 100.0))
    assert stopped.value.exit_code == 128 + number
    (part,) = recorded()
    assert (part['state'], part['epoch'] > 0) == ('stopped', True)


@pytest.mark.slow
def test_a_trainer_that_refuses_its_config():
    with pytest.raises(BadInput, match=r'x/a_seed0: .* exit code 2; see .*a_seed0/output.txt'):
        run(Trial('a', 'configs/refused.py', {}, 1.0))
    assert not Path('results/x.jsonl').exists()


@pytest.mark.slow
def test_a_record_of_other_overrides_is_not_taken_for_the_trial():
    run(Trial('a', 'configs/a.py', {'batch_size': 64}, 1.0))
    with pytest.raises(BadInput, match=r"a was run with configs/a.py {'batch_size': 64}, but is"):
        run(Trial('a', 'configs/a.py', {'batch_size': 128}, 1.0))


def test_a_damaged_record_file_is_named():
    Path('results').mkdir()
    Path('results/x.jsonl').write_text('{"trial": \n')
    with pytest.raises(BadInput, match=r'results/x.jsonl is damaged: .*; restore it from git'):
        run(Trial('a', 'configs/a.py', {}, 1.0))


# What the records come to


def test_smooth_averages_over_the_epoch_before():
    # Records of half an epoch, one of a quarter: at 1.75, (1/4 x 0.6 + 1/2 x 0.4 + 1/4 x 0.2) / 1.
    curve = [(0.5, 0.8, 0), (1.0, 0.6, 0), (1.5, 0.4, 0), (1.75, 0.2, 0)]
    expected = [(0.5, 0.8), (1.0, 0.7), (1.5, 0.5), (1.75, 0.4)]
    assert [e for pair in smooth(curve) for e in pair] == pytest.approx(
        [e for pair in expected for e in pair]
    )


def test_epochs_to_an_error():
    curve = [(0.5, 0.1, 0), (1.0, 0.5, 0), (1.5, 0.3, 0), (2.0, 0.2, 0), (2.5, 0.1, 0)]
    # Averages: 0.3 at 1, 0.4 at 1.5, 0.25 at 2, 0.15 at 2.5; the 0.1 of the first half is no epoch.
    assert epochs_to(curve, 0.25 + 1e-9) == 2.0
    assert epochs_to(curve, 0.2) == 2.5
    assert epochs_to(curve, 0.1) is None
    assert epochs_to([], 0.5) is None


def test_mean_and_spread():
    assert spread([]) == 'not run yet'
    assert spread([18.25], '.2f') == '18.25 (1 seed)'
    # Deviations -1, 0, 1 from 4: variance 2 / (3 - 1).
    assert spread([3.0, 4.0, 5.0]) == '4.0 ± 1.0 (3 seeds)'
    assert spread([0.5, 0.5], '+.2f') == '+0.50 ± 0.00 (2 seeds)'


def record(trial: Trial, train, seed=0, state='finished', evals=()) -> Record:
    return Record(
        trial=trial.name,
        seed=seed,
        config=trial.config,
        overrides=json.loads(json.dumps(trial.overrides)),
        epochs=trial.epochs,
        epoch=train[-1][0] if train else 0.0,
        state=state,
        revision=None,
        seconds=60.0,
        train=list(train),
        eval=list(evals),
        scores={},
    )


def swept(*errors: tuple[str, int, float]) -> Records:
    """Records of sweeps: net, number of the rate, training error in the second epoch."""
    records = Records(Path('results/sweep.jsonl'))
    for net, n, error in errors:
        records.put(record(make_trial(net, n), [(1.0, 0.9, 2), (2.0, error, 1)]))
    return records


def test_rates():
    rates = [nth_rate(n) for n in range(-3, 4)]
    assert rates == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]


def test_a_sweep_goes_on_where_the_best_rate_is_at_the_edge():
    low = (('relu', 0, 0.3), ('relu', 1, 0.4), ('relu', 2, 0.5))
    assert next_trial(swept(), 0) == make_trial('relu', 0)
    assert next_trial(swept(*low), 0) == make_trial('relu', -1)
    high = (('relu', 0, 0.5), ('relu', 1, 0.4), ('relu', 2, 0.3))
    assert next_trial(swept(*high), 0) == make_trial('relu', 3)
    assert next_trial(swept(*low, ('relu', -1, 0.35)), 0) == make_trial('tanh', 0)
    assert best_rate('relu', swept(*low, ('relu', -1, 0.35))) == 0
    assert next_trial(swept(*low, ('relu', -1, 0.2)), 0) == make_trial('relu', -2)


def raced(net: str, n: int, epochs: float, seed: int) -> Record:
    """A record that reaches an error of 25% over the epoch that ends at `epochs`."""
    trial = make_trial(net, n, race=True)
    curve = [(1.0, 0.9, 2), (2.0, 0.3, 1), (epochs - 1, 0.3, 1), (epochs, 0.2, 0.5)]
    return dataclasses.replace(record(trial, curve, seed, state='stopped'), epochs=60.0)


def both_swept() -> Records:
    errors = {0: 0.4, 1: 0.3, 2: 0.5}
    return swept(*((net, n, error) for net in ('relu', 'tanh') for n, error in errors.items()))


def test_after_the_sweeps_each_net_is_raced_at_its_best_rate():
    records = both_swept()
    assert next_trial(records, 0) == make_trial('relu', 1, race=True)
    records.put(raced('relu', 1, 5.0, 0))
    assert next_trial(records, 0) == make_trial('tanh', 1, race=True)
    records.put(raced('tanh', 1, 20.0, 0))
    assert next_trial(records, 0) is None
    assert next_trial(records, 1) == make_trial('relu', 1, race=True)  # the sweep is seed 0's


def test_table_of_figure_1():
    records = both_swept()
    for net, seed, epochs in (('relu', 0, 5.0), ('tanh', 0, 20.0), ('relu', 1, 7.0)):
        records.put(raced(net, 1, epochs, seed))
    lines = relu_table(records).splitlines()
    # 5 and 7: mean 6, deviations of 1, variance 2 / 1; the ratio where both nets have the seed.
    assert lines[2] == '| ReLU | 0.003 | 6.0 ± 1.4 (2 seeds) |  |'
    assert lines[3] == '| tanh | 0.003 | 20.0 (1 seed) |  |'
    assert lines[4] == '| tanh / ReLU |  | 4.0 (1 seed) | about 6 ("six times faster") |'
    assert lines[-2] == '| ReLU | 40.0% | 30.0% | 50.0% |'


def test_a_net_that_has_not_reached_the_target_says_how_far_it_is():
    records = both_swept()
    curve = [(1.0, 0.9, 2), (2.0, 0.3, 1), (2.5, 0.3, 1)]
    records.put(record(make_trial('relu', 1), curve, state='stopped'))
    assert '| ReLU | 0.003 | seed 0: 30.0% after 2.5, stopped |' in relu_table(records)
    assert '| tanh / ReLU |  | not run yet |' in relu_table(records)


def test_a_rate_that_diverges_is_not_taken():
    records = swept(('relu', 0, 0.3), ('relu', 1, 0.4), ('relu', -1, 0.35))
    records.put(record(make_trial('relu', 2), [], state='diverged'))
    assert next_trial(records, 0) == make_trial('tanh', 0)
    assert '| ReLU | 35.0% | 30.0% | 40.0% | diverged |' in relu_table(records)


def test_a_net_that_is_not_swept_has_no_rate():
    assert '| ReLU | not chosen yet | not run yet |' in relu_table(swept())
    assert not relu_figure(swept())


def test_figure_1_is_drawn():
    records = both_swept()
    records.put(raced('relu', 1, 5.0, 0))
    (axes,) = relu_figure(records).axes
    curve, swept_only, target = axes.lines
    labels = [curve.get_label(), swept_only.get_label()]
    assert labels == ['ReLU, rate 0.003', 'tanh, rate 0.003']
    assert curve.get_xydata()[-1].tolist() == pytest.approx([5.0, 0.2])  # over the epoch before
    assert target.get_ydata() == [0.25, 0.25]


def test_changes_are_paired_by_seed():
    records = Records(Path('results/pairs.jsonl'))
    errors = {'both': [0.25, 0.27], 'no_lrn': [0.26, 0.30], 'non_overlapping_pool': [0.26]}
    for name, found in errors.items():
        for seed, error in enumerate(found):
            evals = [(5.0, error, 0.8)]
            records.put(record(NORM_AND_POOL[name], [(5.0, 0.2, 0.5)], seed, evals=evals))
    partial = record(NORM_AND_POOL['neither'], [(1.5, 0.4, 1)], 0, 'stopped', [(1.0, 0.5, 1)])
    records.put(partial)
    lines = norm_table(records).splitlines()
    assert lines[2] == '| norms, overlapping pools | 5, 5 | 26.00 ± 1.41 (2 seeds) |  |  |'
    # 26 and 30 less 25 and 27: 1 and 3.
    assert lines[3].startswith(
        '| no norms | 5, 5 | 28.00 ± 2.83 (2 seeds) | +2.00 ± 1.41 (2 seeds)'
    )
    assert lines[4].startswith('| 2x2 pools | 5 | 26.00 (1 seed) | +1.00 (1 seed) | +0.4 ')
    assert lines[5].startswith('| no norms, 2x2 pools | 1.5 of 5 (stopped) | not run yet |')


def test_table_and_figure_of_dropout():
    records = Records(Path('results/pairs.jsonl'))
    for seed, final in enumerate((0.40, 0.44)):
        # Over the last epoch the training error is (0.3 + 0.1) / 2.
        train = [(1.0, 0.5, 1), (24.0, 0.4, 1), (24.5, 0.3, 1), (25.0, 0.1, 1)]
        evals = [(12.0, 0.38, 1.2), (25.0, final, 1.25)]
        records.put(record(DROPOUT['no_dropout'], train, seed, evals=evals))
    lines = dropout_table(records).splitlines()
    assert lines[2].startswith('| dropout |  | not run yet |')
    assert lines[3] == (
        '| no dropout | 25, 25 | 20.0 ± 0.0 (2 seeds) | 42.0 ± 2.8 (2 seeds) | '
        '38.0 ± 0.0 (2 seeds) | 1.25 ± 0.00 (2 seeds) |'
    )
    assert len(dropout_figure(records).axes[0].lines) == 4  # two seeds, training and validation


def test_table_of_the_published_schedule():
    records = Records(Path('results/schedule.jsonl'))
    evals = [(2.0, 0.5, 1.4), (4.0, 0.41, 1.2)]
    records.put(record(SCHEDULE, [(5.5, 0.4, 1)], state='stopped', evals=evals))
    assert schedule_table(records).splitlines()[2:] == [
        '| seed 0 | 5.5 of 140 (stopped) | 41.00% at epoch 4 | 18% |',
        '| mean of the finished |  | not run yet | 18% |',
    ]


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_experiment_has_a_table_before_it_is_run(name):
    table = EXPERIMENTS[name].table(Records(Path('none.jsonl')))
    assert 'not run yet' in table
    columns = {line.count('|') for line in table.split('\n\n')[0].splitlines()}
    assert len(columns) == 1


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_what_is_committed_is_of_the_trials_as_they_are_now(name):
    records = Records(ROOT / f'results/{name}.jsonl')
    EXPERIMENTS[name].table(records)
    EXPERIMENTS[name].next_trial(records, 0)


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_the_page_has_the_tables_of_the_records(name):
    page = (ROOT / 'EXPERIMENTS.md').read_text()
    table = EXPERIMENTS[name].table(Records(ROOT / f'results/{name}.jsonl'))
    for part in table.split('\n\n'):
        assert part in page


# The command


def command(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-m', 'alexnet_jax.experiments', *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_without_a_name_it_lists_them():
    done = command()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[::2]] == list(EXPERIMENTS)
    assert all('done; next: ' in line for line in lines[1::2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ('args', 'line'),
    [
        (['drop_out'], "error: unknown experiment 'drop_out'; did you mean dropout?\n"),
        (['dropout', 'x'], "error: unexpected argument 'x'; one experiment at a time\n"),
        (['dropout', '--seeds=0'], 'error: --seeds=0; it must be at least 1\n'),
        (
            ['dropout', '--seeds=2'],
            'error: the trial dropout needs --folder=PATH, a folder of images: PATH/train/CLASS/* '
            'and PATH/validation/CLASS/*\n',
        ),
        (['dropout', '--budget=-1'], 'error: --budget=-1.0; it must be above 0 minutes\n'),
    ],
)
def test_bad_input_is_one_line(args, line):
    done = command(*args)
    assert (done.returncode, done.stderr) == (2, line)


@pytest.mark.slow
def test_the_trainer_itself(monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '')
    every = {'log_every': 5, 'eval_every': 20, 'checkpoint_every': 20}
    trial = Trial('digits', f'{ROOT}/configs/quickstart.py', every, 1.0)
    with Session(Path('runs')) as session:
        found = session.run(trial, 3)
    # 1,437 digits in batches of 64: 22 steps, records at 5, 10, 15, 20, 22, scores at 20 and 22.
    assert (found.state, found.epoch) == ('finished', round(22 * 64 / 1437, 4))
    assert [round(epoch * 1437 / 64) for epoch, *_ in found.train] == [5, 10, 15, 20, 22]
    assert [round(epoch * 1437 / 64) for epoch, *_ in found.eval] == [20, 22]
    assert found.scores['examples'] == 360
    assert found.eval[-1][1] == pytest.approx(1 - found.scores['top1'], abs=1e-5)
    assert 0 < found.seconds < 100
    config = json.loads(Path('runs/digits_seed3/config.json').read_text())
    assert (config['seed'], config['log_every'], config['epochs']) == (3, 5, 1.0)
