"""Records, the cut back to the restored step, TensorBoard's view, and the plain lines."""

import json
import os
import time

import pytest
from etils import epath
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from alexnet_jax.errors import RunError
from alexnet_jax.run.logger import Log, read_records, track

TRAIN = {'loss': 2.5, 'top1': 0.125, 'top5': 0.5, 'examples': 320, 'bad_images': 0}
EVAL = {
    'loss': 1.5,
    'top1': 0.25,
    'top5': 0.75,
    'examples': 37,
    'bad_images': 2,
    'images_per_second': 80.0,
}


def open_log(folder, start: int = 0) -> Log:
    """60 steps of 64 examples, 1,437 examples an epoch: the digits."""
    return Log(str(folder), start, total=60, batch_size=64, train_size=1437)


def scalars(folder) -> dict[tuple[str, int], float]:
    """{(tag, step): value} over the event files, the later file counts."""
    found = {}
    for path in sorted(folder.glob('events.*')):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = tensor_util.make_ndarray(value.tensor).item()
                found[value.tag, event.step] = number
    return found


def test_a_train_record(tmp_path):
    with open_log(tmp_path) as log:
        log.tick(1)
        log.train(10, TRAIN, learning_rate=0.004)
    (line,) = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    record = json.loads(line)
    assert list(record)[:3] == ['step', 'epoch', 'split']
    assert record.pop('images_per_second') > 0
    expected = {'step': 10, 'epoch': 640 / 1437, 'split': 'train', 'learning_rate': 0.004}
    assert record == TRAIN | expected


def test_an_eval_record(tmp_path):
    with open_log(tmp_path) as log:
        log.eval(30, EVAL)
    (record,) = read_records(epath.Path(tmp_path) / 'metrics.jsonl')
    assert record == EVAL | {'step': 30, 'epoch': 1920 / 1437, 'split': 'eval'}


def test_images_per_second_leaves_out_the_first_step_and_saves(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, 'perf_counter', lambda: now)
    with open_log(tmp_path) as log:
        log.restart_clock(0)  # after an evaluation that the last start did not come to
        log.tick(1)  # at 0 s; compiling took as long as it took
        now = 9.0
        log.train(10, TRAIN, 0.1)  # 9 steps in 9 s
        now = 10.0
        log.train(14, TRAIN, 0.1)  # 4 steps in 1 s
        now = 105.0  # after a save
        log.restart_clock(14)
        log.tick(15)
        now = 108.0
        log.train(20, TRAIN, 0.1)  # 6 steps in 3 s
        log.restart_clock(20)
        log.tick(21)
        now = 109.0
        log.train(21, TRAIN, 0.1)  # with a save after every step, too: 1 step in 1 s
    records = read_records(epath.Path(tmp_path) / 'metrics.jsonl')
    assert [record['images_per_second'] for record in records] == [64.0, 256.0, 128.0, 64.0]


def test_records_are_on_disk_as_they_are_written(tmp_path):
    with open_log(tmp_path) as log:
        log.eval(1, EVAL)
        assert len(read_records(epath.Path(tmp_path) / 'metrics.jsonl')) == 1


def write_steps(folder, *steps: int, start: int = 0, loss: float = 2.5) -> None:
    with open_log(folder, start) as log:
        for step in steps:
            log.train(step, TRAIN | {'loss': loss}, 0.1)


def test_a_resumed_run_is_cut_back_to_its_step(tmp_path):
    write_steps(tmp_path, 10, 20, 30)
    before = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    write_steps(tmp_path, 30, 40, start=20, loss=1.0)
    after = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    assert after[:2] == before[:2]
    assert [(r['step'], r['loss']) for r in map(json.loads, after[2:])] == [(30, 1.0), (40, 1.0)]


@pytest.mark.parametrize('torn', ['{"step": 20, "epo', '{', '{"step": 20}garbage'])
def test_a_last_line_that_was_torn_is_dropped(tmp_path, torn):
    write_steps(tmp_path, 10)
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write(torn)
    write_steps(tmp_path, 20, start=15)
    assert [r['step'] for r in read_records(epath.Path(tmp_path) / 'metrics.jsonl')] == [10, 20]


def test_tensorboard_shows_the_records(tmp_path):
    with open_log(tmp_path) as log:
        log.train(10, TRAIN, 0.004)
        log.eval(30, EVAL)
    found = scalars(tmp_path)
    assert found['train/loss', 10] == 2.5
    assert found['train/top1', 10] == 0.125
    assert found['train/learning_rate', 10] == pytest.approx(0.004)
    assert found['train/epoch', 10] == pytest.approx(640 / 1437)
    assert found['eval/top5', 30] == 0.75
    assert found['eval/examples', 30] == 37
    assert ('train/loss', 30) not in found


def test_tensorboard_is_told_what_the_cut_drops(tmp_path):
    """A resumed run's file opens with SessionLog.START at its first step: later ones go."""
    write_steps(tmp_path, 10)
    (old,) = tmp_path.glob('events.*')
    old.rename(tmp_path / 'old')
    write_steps(tmp_path, 6, start=5)
    (new,) = tmp_path.glob('events.*')
    starts = [
        event.step
        for event in EventFileLoader(str(new)).Load()
        if event.HasField('session_log') and event.session_log.status == event.session_log.START
    ]
    assert starts == [6]


def test_the_plain_lines(tmp_path, capsys):
    with open_log(tmp_path) as log:
        log.say('hello')
        log.train(10, TRAIN, 0.004)
        log.eval(30, EVAL)
    assert capsys.readouterr().out.splitlines() == [
        'hello',
        'step 10/60  epoch 0.4  train  loss 2.5000  top-1 12.50%  top-5 50.00%  rate 0.004',
        'step 30/60  epoch 1.3  eval   loss 1.5000  top-1 25.00%  top-5 75.00%  80 images/s  '
        'bad images 2',
    ]


def test_lines_without_the_top5_of_five_classes(tmp_path, capsys):
    """The records keep it."""
    with Log(str(tmp_path), 0, 60, 64, 1437, shows_top5=False) as log:
        log.eval(30, EVAL)
    line = 'step 30/60  epoch 1.3  eval   loss 1.5000  top-1 25.00%  80 images/s  bad images 2'
    assert capsys.readouterr().out.splitlines() == [line]
    assert read_records(epath.Path(tmp_path) / 'metrics.jsonl')[0]['top5'] == 0.75


def test_the_line_says_how_long_it_will_take(tmp_path, monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(time, 'perf_counter', lambda: now)
    with open_log(tmp_path) as log:
        log.tick(1)
        now = 10.0
        log.train(11, TRAIN, 0.1)  # a step a second, 49 to go
    assert capsys.readouterr().out.endswith('64 images/s  rate 0.1  0:00:49 left\n')


def test_the_evaluation_is_passed_through():
    assert list(track([1, 2, 3], count=3)) == [1, 2, 3]


def test_only_process_0_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('jax.process_index', lambda: 1)
    with open_log(tmp_path) as log:
        log.tick(1)
        log.say('hello')
        log.train(10, TRAIN, 0.1)
        log.eval(10, EVAL)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ''


# A disk that is full


def test_two_starts_in_one_second_have_files_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(time, 'time', lambda: 1e9)
    for number in (7, 8):
        monkeypatch.setattr(os, 'getpid', lambda number=number: number)
        write_steps(tmp_path, number)
    assert len(list(tmp_path.glob('events.*'))) == 2
    assert {step for _, step in scalars(tmp_path)} == {7, 8}


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full, as on Linux')
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')  # of /dev/full
def test_a_record_that_cannot_be_written_is_one_clear_error(tmp_path):
    """/dev/full is a disk without room."""
    log = open_log(tmp_path)
    log._file.close()
    log._file = open('/dev/full', 'w')  # noqa: SIM115
    with pytest.raises(RunError, match=r'metrics.jsonl or the events .* No space left on device'):
        log.train(10, TRAIN, 0.1)
    log._file = open(tmp_path / 'metrics.jsonl', 'a')  # noqa: SIM115
    log.__exit__()


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full, as on Linux')
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_events_that_cannot_be_written_are_one_clear_error(tmp_path):
    log = open_log(tmp_path)
    writer = log._events._records
    writer.close()
    writer._writer = open('/dev/full', 'wb')  # noqa: SIM115
    with pytest.raises(RunError, match='No space left on device'):
        log.train(10, TRAIN, 0.1)
    with pytest.raises(RunError, match='No space left on device'):
        log.__exit__()
    assert log._file.closed


def test_a_record_that_was_added_by_hand_does_not_stop_a_run(tmp_path):
    write_steps(tmp_path, 10)
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"step": 10, "note": "here the fan failed"}\n')
    write_steps(tmp_path, 20, start=10)
    path = epath.Path(tmp_path) / 'metrics.jsonl'
    assert [record['step'] for record in read_records(path)] == [10, 20]
    assert 'here the fan failed' in path.read_text()


def test_a_folder_without_permission_is_one_clear_error(tmp_path):
    (tmp_path / 'metrics.jsonl').mkdir()  # root passes every check of permissions
    with pytest.raises(RunError, match=r'cannot write .*metrics.jsonl or the events next to it'):
        open_log(tmp_path)


@pytest.mark.parametrize(
    'damage', [b'[1]', b'{"split": "eval"}', b'{"step": "3"}', b'\xff', b'{"st']
)
def test_a_damaged_line_hides_no_other(tmp_path, damage):
    path = epath.Path(tmp_path) / 'metrics.jsonl'
    one, two = {'step': 1, 'split': 'train'}, {'step': 2, 'split': 'eval'}
    path.write_bytes(b'\n'.join([json.dumps(one).encode(), damage, json.dumps(two).encode()]))
    assert read_records(path) == [one, two]


def test_a_run_without_metrics_has_no_records(tmp_path):
    assert read_records(epath.Path(tmp_path) / 'metrics.jsonl') == []


def test_damaged_lines_are_removed_and_reported(tmp_path, capsys):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 1}\n\n[1]\n{"step": 2}\n{"st\n{"step": 3}\n{"step": 4, "sp')
    open_log(tmp_path, start=2).__exit__()
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    note = f'note: {path} had 2 damaged lines, now removed; the other records are kept\n'
    assert capsys.readouterr().err == note


def test_a_blank_line_or_a_torn_last_one_is_not_reported(tmp_path, capsys):
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n\n{"step": 2}\n{"st')
    open_log(tmp_path, start=2).__exit__()
    assert (tmp_path / 'metrics.jsonl').read_text() == '{"step": 1}\n{"step": 2}\n'
    assert capsys.readouterr().err == ''
