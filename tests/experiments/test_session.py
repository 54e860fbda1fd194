"""The session, around a trainer that only writes records."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from experiments import made_up
from helpers import ROOT, assert_has

from alexnet_jax.errors import BadInput, Interrupted, RunError
from alexnet_jax.experiments import __main__ as experiments
from alexnet_jax.experiments import (
    ablations,
    authors_logs,
    dropout_ensemble,
    finetuning,
    gradients,
    outcome,
)
from alexnet_jax.experiments import session as sessions
from alexnet_jax.experiments.catalog import EXPERIMENTS
from alexnet_jax.experiments.experiment import Experiment
from alexnet_jax.experiments.records import Record, Records, Trial, epochs_to
from alexnet_jax.experiments.session import Session
from alexnet_jax.experiments.tables import of_list
from alexnet_jax.sweep.backends.local import Local

FAKE = (sys.executable, str(Path(__file__).with_name('fake_trainer.py')))
SLOW = {'pause': 0.1}  # seconds an epoch


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sessions, 'POLL', 0.02)
    monkeypatch.setenv('PYTHONPATH', str(ROOT))


def run(*trials: Trial, minutes: float | None = None, seeds: int = 1) -> list[dict]:
    """Run an experiment of these trials; its records as they lie in the file."""
    experiment = Experiment(
        'a claim', 'a source', '', [of_list(trials)], (), lambda records: 'the table', minutes=1.0
    )
    with Session(Path('runs/experiments'), minutes, trainer=FAKE) as session:
        experiments.run('x', experiment, session, seeds)
    return recorded()


def one(session: Session, trial: Trial, seed: int = 0) -> Record | None:
    session.start(trial, seed)
    return session.wait()[-1]


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
    found = run(Trial('x', 'a', 'configs/a.py', {'edits': ('no_lrn',)}, 2.0),
                Trial('x', 'b', 'configs/b.py', {}, 1.0), seeds=2)  # fmt: skip
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
        'device': '',
        'data': '',
    }  # fmt: skip
    output = capsys.readouterr().out
    assert 'the table' in output
    assert '0:00:12 of training' in output  # 4 + 2 seconds, twice


@pytest.mark.slow
def test_what_is_recorded_is_skipped_though_its_workdir_is_gone(capsys):
    trial = Trial('x', 'a', 'configs/a.py', {}, 1.0)
    before = run(trial)
    assert 'nothing to run' not in capsys.readouterr().out
    Path('runs').rename('elsewhere')
    assert run(trial) == before
    assert not Path('runs').exists()
    line = 'nothing to run: everything is recorded in results/x.jsonl\n'
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    ('trial', 'nets'),
    [
        (finetuning.FINETUNED, ['finetuning/pretraining_seed0']),
        (finetuning.SCRATCH, []),
        (ablations.ten_crops(ablations.BOTH), ['augmentation/both_seed3']),
        (dropout_ensemble.PAIR, ['dropout/without_seed3', 'dropout/without_seed8']),
        (authors_logs.WEIGHTS, ['authors_logs/80sec_2.6_seed3', 'authors_logs/19pct_seed3']),
        (gradients.TIMES, []),
    ],
)
def test_the_nets_that_a_trial_needs(trial, nets):
    assert trial.nets(3) == nets


@pytest.mark.slow
def test_what_needs_nets_that_are_gone_is_skipped_and_the_rest_runs(capsys):
    """The nets may be recorded in a clone that has no workdirs."""
    net = Trial('x', 'net', 'configs/a.py', {}, 1.0)
    run(net, seeds=2)
    Path('runs/experiments/x/net_seed1/checkpoints/1').mkdir(parents=True)
    from_net = [Trial('x', name, 'configs/b.py', {}, 1.0, starts_from=start)
                for name, start in (('gone', 'net_seed0'), ('there', 'net_seed1'))]  # fmt: skip
    with pytest.raises(BadInput) as error:
        run(net, *from_net, Trial('x', 'last', 'configs/a.py', {}, 1.0))
    assert_has(
        str(error.value),
        'no checkpoint in runs/experiments/x/net_seed0; ',
        'delete its line (trial and seed) in results/x.jsonl',
    )
    assert [r['trial'] for r in recorded()] == ['net', 'net', 'there', 'last']
    output = capsys.readouterr().out
    assert 'x: gone, seed 0, is skipped: its net is gone\n' in output
    assert 'the table' in output.partition('last, seed 0')[2]


def test_all_nets_that_are_gone_are_named_at_once():
    experiment = EXPERIMENTS['features']
    net = experiment.trials[0]
    for seed in range(3):
        Records(Path('results')).put(net.home, made_up.record(net, 0.2, seed))
    session = Session(Path('runs/experiments'), trainer=FAKE)
    with session, pytest.raises(BadInput) as error:
        experiments.run('features', experiment, session, seeds=3)
    names = ', '.join(f'runs/experiments/depth/narrow_seed{seed}' for seed in range(3))
    assert f'no checkpoint in {names}; ' in str(error.value)


@pytest.mark.slow
def test_a_stage_that_fails_does_not_hide_what_the_one_before_it_found(capsys):
    net, refused = (Trial('x', name, f'configs/{name}.py', {}, 1.0) for name in ('a', 'refused'))
    stages = [of_list([net]), of_list([refused])]
    experiment = Experiment(
        '', '', '', stages, (), lambda records: f'{len(records.of(net))} nets', 1.0,
    )  # fmt: skip
    session = Session(Path('runs/experiments'), trainer=FAKE)
    with session, pytest.raises(BadInput, match='refused_seed0: ended with exit code 2'):
        experiments.run('x', experiment, session, seeds=2)
    assert '2 nets\n' in capsys.readouterr().out


@pytest.mark.slow
def test_a_workdir_of_other_data_is_refused():
    """Two copies of a dataset may have one name and size, and the trainer would go on."""
    trial = Trial('x', 'a', 'configs/a.py', {}, 1.0)

    def start(data: str) -> Record | None:
        with Session(Path('runs/experiments'), trainer=FAKE, data=data) as session:
            return one(session, trial)

    assert start('jpeg')
    assert start('jpeg')
    with pytest.raises(BadInput, match=r'a_seed0 is a run on other data .*jpeg; here original'):
        start('original')


@pytest.mark.slow
def test_more_epochs_continue_from_the_workdir():
    run(Trial('x', 'a', 'configs/a.py', {}, 2.0))
    found = run(Trial('x', 'a', 'configs/a.py', {}, 3.0))
    assert starts('a_seed0') == [0, 2]
    assert [(r['epochs'], r['seconds']) for r in found] == [(3.0, 6.0)]


@pytest.mark.slow
def test_the_budget_stops_a_trial_and_the_same_command_continues(capsys):
    trial = Trial('x', 'a', 'configs/a.py', SLOW, 30.0)
    (part,) = run(trial, minutes=1.5 / 60)
    assert part['state'] == 'stopped'
    assert 0 < part['epoch'] < 30
    assert 'the budget is spent; run the same command again to continue' in capsys.readouterr().out
    (whole,) = run(trial)
    assert (whole['state'], whole['epoch'], whole['seconds']) == ('finished', 30.0, 60.0)
    assert starts('a_seed0') == [0, part['epoch']]
    assert 'budget' not in capsys.readouterr().out


@pytest.mark.slow
def test_a_target_ends_a_trial_and_the_next_one_starts():
    # 0.8 / e averaged over an epoch is below 0.15 first at e = 6.
    found = run(Trial('x', 'a', 'configs/a.py', SLOW, 60.0, until=0.15),
                Trial('x', 'b', 'configs/b.py', {}, 1.0))  # fmt: skip
    a, b = found
    assert (a['state'], b['state']) == ('stopped', 'finished')
    assert 6 <= a['epoch'] < 20
    assert epochs_to(a['train'], 0.15) == 6.0


@pytest.mark.slow
def test_a_stopped_measurement_has_no_result(monkeypatch):
    """Not even the one that an earlier start has left."""
    stops = 'signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); time.sleep(60)'
    script = f'import signal, sys, time; {stops}'
    monkeypatch.setattr(sessions, 'MEASURER', (sys.executable, '-c', script))
    workdir = Path('runs/experiments/x/m_seed0')
    workdir.mkdir(parents=True)
    (workdir / outcome.MEASURED).write_text('{"errors": 1}')
    with Session(Path('runs/experiments'), 0.02) as session:
        assert one(session, Trial('x', 'm', f'{sessions.MEASURE}test_scores', {}, 1.0)) is None


@pytest.mark.slow
@pytest.mark.parametrize('epoch', [1, 3])
def test_divergence_is_a_result(epoch):
    trials = (
        Trial('x', 'a', 'configs/a.py', {'diverges': epoch}, 5.0),
        Trial('x', 'b', 'configs/b.py', {}, 1),
    )
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
        run(Trial('x', 'a', 'configs/a.py', SLOW, 100.0))


@pytest.mark.slow
def test_the_output_of_a_trial_is_printed_once(capfd, tmp_path):
    """As it is written, also in the start that continues it."""
    loud = tmp_path / 'loud.py'
    loud.write_text(
        'import runpy, sys\n'
        f'print("epochs", next(a.split("=")[1] for a in sys.argv if "epochs" in a), flush=True)\n'
        f'runpy.run_path({str(FAKE[1])!r})\n'
    )
    with Session(Path('runs'), trainer=(sys.executable, str(loud))) as session:
        for epochs in (1.0, 2.0):
            one(session, Trial('x', 'a', 'configs/a.py', {}, epochs))
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
    output = Path('runs/x/a_seed0/output.txt')

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
        assert one(session, Trial('x', 'a', 'configs/a.py', {}, 1.0)) is None
        assert time.monotonic() - before < 50
        with pytest.raises(Interrupted):
            session.check()
        sender.join()


@pytest.mark.slow
def test_a_signal_after_the_budget_does_not_disturb_the_save(tmp_path):
    saver = tmp_path / 'saver.py'
    saver.write_text(
        'import signal, sys, time\n'
        'def stop(*_):\n'
        '    signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n'
        '    print("saving", flush=True)\n'
        '    time.sleep(1)\n'
        '    print("saved", flush=True)\n'
        '    sys.exit(143)\n'
        'signal.signal(signal.SIGTERM, stop)\n'
        'time.sleep(60)\n'
    )
    output = Path('runs/x/a_seed0/output.txt').absolute()

    def send():
        while not output.exists() or 'saving' not in output.read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send, daemon=True).start()
    with Session(Path('runs'), 0.05, trainer=(sys.executable, str(saver))) as session:
        assert one(session, Trial('x', 'a', 'configs/a.py', {}, 1.0)) is None
    assert output.read_text() == 'saving\nsaved\n'


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_trial_saved_and_recorded(number):
    after_a_record(lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match='run the same command again to continue') as stopped:
        run(Trial('x', 'a', 'configs/a.py', SLOW, 100.0))
    assert stopped.value.exit_code == 128 + number
    (part,) = recorded()
    assert (part['state'], part['epoch'] > 0) == ('stopped', True)


@pytest.mark.slow
def test_a_trainer_that_refuses_its_config():
    with pytest.raises(BadInput, match=r'x/a_seed0: .* exit code 2; see .*a_seed0/output.txt'):
        run(Trial('x', 'a', 'configs/refused.py', {}, 1.0))
    assert not Path('results/x.jsonl').exists()


@pytest.mark.slow
def test_a_record_of_other_overrides_is_not_taken_for_the_trial():
    run(Trial('x', 'a', 'configs/a.py', {'batch_size': 64}, 1.0))
    with pytest.raises(BadInput, match=r"a was run with configs/a.py {'batch_size': 64}, but is"):
        run(Trial('x', 'a', 'configs/a.py', {'batch_size': 128}, 1.0))


def test_a_damaged_record_file_is_named():
    Path('results').mkdir()
    Path('results/x.jsonl').write_text('{"trial": \n')
    with pytest.raises(BadInput, match=r'results/x.jsonl is damaged: .*; restore it from git'):
        run(Trial('x', 'a', 'configs/a.py', {}, 1.0))


@pytest.mark.slow
def test_a_line_that_was_emptied_by_hand_is_no_damage():
    run(Trial('x', 'a', 'configs/a.py', {}, 1.0), seeds=2)
    path = Path('results/x.jsonl')
    first, second = path.read_text().splitlines()
    path.write_text(f'\n{second}\n')
    assert [json.loads(line)['seed'] for line in (first, second)] == [0, 1]
    run(Trial('x', 'a', 'configs/a.py', {}, 1.0))
    assert sorted(r['seed'] for r in recorded()) == [0, 1]


# Several at a time


def run_two(trainer: str, tmp_path: Path, **settings) -> list[dict]:
    """Run two seeds of a trial at a time with a script that gets its workdir as `own`."""
    script = tmp_path / 'trainer.py'
    script.write_text(
        'import runpy, sys, time\n'
        'from pathlib import Path\n'
        'own = Path(next(a for a in sys.argv if "workdir" in a).split("=")[1])\n'
        'own.mkdir(parents=True, exist_ok=True)\n'
        f'{trainer}\n'
        f'runpy.run_path({FAKE[1]!r})\n'
    )
    experiment = Experiment(
        'a claim', 'a source', '', [of_list([Trial('x', 'a', 'configs/a.py', SLOW, 3.0)])], (),
        lambda records: 'the table', minutes=1.0, **settings,
    )  # fmt: skip
    backend = Local('cpu', 1, 1, max_parallel=2)
    trainer_command = (sys.executable, str(script))
    with Session(Path('runs/experiments'), trainer=trainer_command, backend=backend) as session:
        experiments.run('x', experiment, session, seeds=2)
    return recorded()


LONG = 'sys.argv = [a.replace("epochs=3", "epochs=300") for a in sys.argv]'
MEET = (
    'while not all((own.parent / f"a_seed{seed}").exists() for seed in (0, 1)):\n'
    '    time.sleep(0.02)\n'
    'print("met")\n'
    'print("went on", end="")'
)


@pytest.mark.slow
def test_two_seeds_run_at_a_time_and_every_line_says_whose_it_is(tmp_path, capsys):
    found = run_two(MEET, tmp_path)
    assert sorted((r['seed'], r['state']) for r in found) == [(0, 'finished'), (1, 'finished')]
    lines = capsys.readouterr().out
    for seed in (0, 1):
        assert f'a_seed{seed}: met\n' in lines
        assert f'a_seed{seed}: went on' in lines


@pytest.mark.slow
def test_other_seeds_wait_for_a_seed_that_leads(tmp_path):
    alone = 'assert "seed0" in own.name or (own.parent / "a_seed0/metrics.jsonl").exists()'
    wait = 'time.sleep(0.5 * ("seed0" in own.name))'
    run_two(f'{wait}\n{alone}', tmp_path, first_seed_leads=True)
    Path('results/x.jsonl').unlink()
    Path('runs').rename('elsewhere')
    with pytest.raises(RunError, match='a_seed1: ended with exit code 1'):
        run_two(f'{wait}\n{alone}', tmp_path)


@pytest.mark.slow
def test_one_that_fails_stops_the_others_saved(tmp_path):
    fail = (
        'other = own.parent / "a_seed0/metrics.jsonl"\n'
        'while "seed1" in own.name and not (other.exists() and other.read_text()):\n'
        '    time.sleep(0.02)\n'
        'assert "seed0" in own.name'
    )
    before = time.monotonic()
    with pytest.raises(RunError, match='a_seed1: ended with exit code 1'):
        run_two(f'{LONG}\n{fail}', tmp_path)
    assert time.monotonic() - before < 25  # 300 epochs take 30 s
    assert [(r['seed'], r['state']) for r in recorded()] == [(0, 'stopped')]


@pytest.mark.slow
def test_one_that_fails_while_the_others_save_does_not_disturb_them(tmp_path):
    """A second SIGTERM would end them without saving."""
    save = (
        'import signal\n'
        'def stop(*_):\n'
        '    signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n'
        '    if "seed1" in own.name:\n'
        '        sys.exit(1)\n'
        '    time.sleep(1)\n'
        '    (own / "saved").touch()\n'
        '    sys.exit(143)\n'
        'signal.signal(signal.SIGTERM, stop)\n'
        '(own / "ready").touch()\n'
        'time.sleep(60)'
    )

    def stop():
        folders = [Path(f'runs/experiments/x/a_seed{seed}').absolute() for seed in (0, 1)]
        while not all((folder / 'ready').exists() for folder in folders):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(RunError, match='a_seed1: ended with exit code 1'):
        run_two(save, tmp_path)
    assert Path('runs/experiments/x/a_seed0/saved').exists()


@pytest.mark.slow
def test_a_signal_records_all_that_run(tmp_path):
    def stop():
        other = Path('runs/experiments/x/a_seed1/metrics.jsonl')
        while not other.exists() or not other.read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    after_a_record(stop)
    with pytest.raises(Interrupted):
        run_two(LONG, tmp_path)
    found = sorted((r['seed'], r['state']) for r in recorded())
    assert found == [(0, 'stopped'), (1, 'stopped')]


@pytest.mark.slow
def test_the_trainer_itself(monkeypatch):
    monkeypatch.setenv('XLA_FLAGS', '')
    every = {'log_every': 5, 'eval_every': 20, 'checkpoint_every': 20}
    trial = Trial('x', 'digits', f'{ROOT}/configs/quickstart.py', every, 1.0)
    with Session(Path('runs')) as session:
        found = one(session, trial, 3)
        assert found
    # 1,437 digits in batches of 64: 22 steps, records at 5, 10, 15, 20, 22, scores at 20 and 22.
    assert (found.state, found.epoch) == ('finished', round(22 * 64 / 1437, 4))
    assert [round(epoch * 1437 / 64) for epoch, *_ in found.train] == [5, 10, 15, 20, 22]
    assert [round(epoch * 1437 / 64) for epoch, *_ in found.eval] == [20, 22]
    assert found.scores['examples'] == 360
    assert found.eval[-1][1] == pytest.approx(1 - found.scores['top1'], abs=1e-5)
    assert 0 < found.seconds < 100
    assert found.device == 'cpu'
    config = json.loads(Path('runs/x/digits_seed3/config.json').read_text())
    assert (config['seed'], config['log_every'], config['epochs']) == (3, 5, 1.0)
