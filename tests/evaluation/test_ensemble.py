"""Nets by hand, one Dense layer on images of 1 x 1 pixel: their averages, and what is refused."""

import csv
import functools
import json
from pathlib import Path

import numpy as np
import pytest
from jax import lax
from trained_runs import save_run

from alexnet_jax.config import default_config, validate
from alexnet_jax.errors import BadInput, RunError
from alexnet_jax.evaluation import ensemble, score_files, scores, steps
from alexnet_jax.model import variants
from alexnet_jax.model.alexnet import AlexNet
from alexnet_jax.model.layers import Dense
from alexnet_jax.parallel import pmap
from alexnet_jax.saved_config import read_config

NAMES = ['ant', 'bee', 'cat']


class Pixels:
    """Images of one pixel, with labels, in batches of 8 examples, the last of which is padding."""

    class_names = NAMES

    def __init__(self, pixels, labels, eval_size=None, bad=()):
        self.pixels, self.labels, self.bad = np.asarray(pixels, np.uint8), labels, list(bad)
        self.eval_size = len(labels) if eval_size is None else eval_size

    def eval_indices(self, step):
        indices = np.arange(8 * step, 8 * step + 8)
        return np.where(indices < len(self.labels), indices, -1)

    def eval_name(self, index):
        return f'images/{index}.png'

    def eval_batches(self):
        for first in range(0, len(self.labels), 8):
            pixels, label = self.pixels[first : first + 8], self.labels[first : first + 8]
            mask = np.ones(len(label), np.float32)
            mask[[i - first for i in self.bad if first <= i < first + 8]] = 0
            padding = 8 - len(label)
            pixels = np.pad(pixels, [(0, padding)] + [(0, 0)] * (pixels.ndim - 1))
            yield {
                'image': pixels[..., None, None, :],  # [8, (views,) 1, 1, 3]
                'label': np.pad(np.int32(label), (0, padding), constant_values=-1),
                'mask': np.pad(mask, (0, padding)),
            }


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """make_run('name', kernel) -> workdir of a run whose logits are pixel @ kernel."""
    monkeypatch.setitem(variants.VARIANTS, 'pixel', (Dense('fc', 3),))
    config = default_config()
    config.variant, config.num_classes, config.image_size, config.batch_size = 'pixel', 3, 1, 8
    config.data.mean = 'none'

    def make(name, kernel, classes=NAMES):
        params = {'fc': {'kernel': np.float32(kernel), 'bias': np.zeros(3, np.float32)}}
        save_run(tmp_path / name, config, classes, {1: ({'params': params}, 0.5)})
        return str(tmp_path / name)

    return make


def score(tmp_path, data, *folders) -> dict:
    config, members = ensemble.plan(None, str(tmp_path / 'out'), ','.join(folders), None)
    ensemble.score(config, str(tmp_path / 'out'), data, members)
    (path,) = (tmp_path / 'out' / 'eval').glob('*.json')
    return json.loads(path.read_text())


def test_views_are_averaged_as_probabilities():
    """Logits (log 8, 0, 0) and (0, log 2, 0): 8/10, 1/10, 1/10 and 1/4, 2/4, 1/4."""
    kernel = np.diag(np.log([8, 2, 1])).astype(np.float32)
    log_probs = functools.partial(steps.view_log_probs, AlexNet((Dense('fc', 3),)))
    predict = steps.make_predict_step(log_probs, np.ones((1, 1, 3), np.float32))
    params = {'fc': {'kernel': kernel, 'bias': np.zeros(3, np.float32)}}
    variables = pmap.replicate({'params': params})
    views = np.uint8([[2, 1, 1], [1, 2, 1]])[:, None, None, :]  # less the mean of 1
    found = np.exp(predict(variables, np.stack([views] * 8)))
    assert found.shape == (8, 3)
    np.testing.assert_allclose(found, [[21 / 40, 12 / 40, 7 / 40]] * 8, rtol=1e-6)


@pytest.mark.parametrize('damaged', ['{', '{}', '[]', '{"members": [{}]}'])
def test_a_damaged_record_of_earlier_scores(make_run, tmp_path, damaged):
    """It stays, and the new scores get a name of their own."""
    net = make_run('net', np.eye(3))
    data = Pixels([[1, 0, 0]] * 8, [0] * 8)
    score(tmp_path, data, net)
    (path,) = (tmp_path / 'out/eval').glob('*.json')
    path.write_text(damaged)
    config, members = ensemble.plan(None, str(tmp_path / 'out'), net, None)
    ensemble.score(config, str(tmp_path / 'out'), data, members)
    assert path.read_text() == damaged
    assert len(list((tmp_path / 'out/eval').glob('*.json'))) == 2


def test_two_nets_by_hand(make_run, tmp_path, capsys):
    """One net prefers the class that is shown 9 to 1, the other the next class 2 to 1.

    Shown class 0, the first gives 9/11, 1/11, 1/11 and the second 1/4, 2/4, 1/4: by their mean
    47/88, 26/88, 15/88. A pixel of zeros gets 1/3 each.
    """
    sure = make_run('sure', np.log(9) * np.eye(3))
    other = make_run('other', np.log(2) * np.roll(np.eye(3), 1, axis=1))
    pixels = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]]
    record = score(tmp_path, Pixels(pixels, [0, 1, 0, 2, 0]), sure, other)
    # 2 shown: class 0 is "the next", 26/88.  0 shown, class 2: 15/88.
    losses = -np.log([47 / 88, 47 / 88, 26 / 88, 15 / 88, 1 / 3])
    assert record['cross_entropy'] == pytest.approx(losses.mean(), rel=1e-6)
    assert (record['top1_error'], record['examples'], record['views']) == (2 / 5, 5, 1)
    confusion = next((tmp_path / 'out' / 'eval').glob('*.confusion.csv')).read_text()
    assert confusion.splitlines()[1:] == ['ant,2,0,1', 'bee,0,1,0', 'cat,1,0,0']
    assert 'top-1 error     40.00%\n' in capsys.readouterr().out
    with next((tmp_path / 'out' / 'eval').glob('*.wrong.csv')).open() as file:
        header, *rows = csv.reader(file)
    assert header == ['image', 'class', 'predicted', 'probability', 'class_probability']
    for row, expected in zip(
        sorted(rows),
        [('images/2.png', 'ant', 'cat', 26 / 88), ('images/3.png', 'cat', 'ant', 15 / 88)],
        strict=True,
    ):
        assert (*row[:3], float(row[4])) == (*expected[:3], pytest.approx(expected[3], rel=1e-5))
        assert float(row[3]) == pytest.approx(47 / 88, rel=1e-5)


def test_views_and_bad_images_through_the_files(make_run, tmp_path):
    """Nine images of two views, over two batches; the ninth is a hit, and the third is bad."""
    sure = make_run('sure', np.log(9) * np.eye(3))
    pixels = [[[1, 0, 0], [0, 1, 0]]] * 8 + [[[0, 0, 1], [0, 0, 1]]]
    record = score(tmp_path, Pixels(pixels, [2] * 9, bad=[2]), sure)
    assert (record['examples'], record['bad_images'], record['views']) == (8, 1, 2)
    assert record['top1_error'] == 7 / 8
    loss = (7 * np.log(11) + np.log(11 / 9)) / 8
    assert record['cross_entropy'] == pytest.approx(loss, rel=1e-6)


def test_tallies_and_guesses_are_added_up_over_the_processes(make_run, tmp_path, monkeypatch):
    added = []
    for kind in (scores.Tally, scores.Guesses):
        monkeypatch.setattr(kind, 'over_processes', lambda own: added.append(type(own)) or own)
    score(tmp_path, Pixels([[1, 0, 0]], [0]), make_run('net', np.eye(3)))
    assert added == [scores.Tally, scores.Guesses]


def test_words_of_wordnet_ids(make_run, tmp_path, capsys):
    """The table and the files call n01440764 a tench; the file of classes has both."""
    names = ['n01440764', 'n01443537', 'x']
    data = Pixels([[1, 0, 0], [0, 1, 0], [1, 0, 0]], [0, 1, 1])
    data.class_names = names
    score(tmp_path, data, make_run('sure', np.eye(3), classes=names))
    assert 'most confused   goldfish as tench (1)\n' in capsys.readouterr().out
    per_class, confusion, wrong = (
        next((tmp_path / 'out' / 'eval').glob(f'*.{name}.csv')).read_text().splitlines()
        for name in ('per_class', 'confusion', 'wrong')
    )
    assert per_class[0] == 'class,name,examples,top1,top5'
    assert per_class[1:3] == ['n01440764,tench,1,1.0,1.0', 'n01443537,goldfish,2,0.5,1.0']
    assert confusion[0].endswith('predicted,tench,goldfish,x')
    assert wrong[1].startswith('images/2.png,goldfish,tench,0.576117,')  # e / (e + 2)


def test_a_missing_example_is_an_error(make_run, tmp_path):
    data = Pixels([[1, 0, 0]] * 3, [0] * 3, eval_size=4)
    with pytest.raises(RunError, match='saw 3 examples, but the split has 4'):
        score(tmp_path, data, make_run('a', np.eye(3)))
    assert not (tmp_path / 'out').exists()


def test_other_classes(make_run, tmp_path):
    data = Pixels([[1, 0, 0]], [0])
    other = make_run('other', np.eye(3), ['ant', 'bee', 'dog'])
    with pytest.raises(BadInput, match=r'other and .*run were trained on different classes; score'):
        score(tmp_path, data, make_run('run', np.eye(3)), other)
    with pytest.raises(BadInput, match='trained on different classes from those that digits has'):
        score(tmp_path, data, other)


def test_the_classes_in_another_order(make_run, tmp_path):
    """As of a converted net: of cat, ant, bee the pixel's colors, where the data sort the names.

    Of ant, bee, cat the net prefers the one that is shown 9 to 1; together with one of the data's
    order that knows nothing, it is (9/11 + 1/3) / 2 = 19/33. A last image is a bee called a cat.
    """
    net = make_run('net', np.log(9) * np.eye(3), ['cat', 'ant', 'bee'])
    even = make_run('even', np.zeros((3, 3)))
    ant, bee, cat = [0, 1, 0], [0, 0, 1], [1, 0, 0]
    record = score(tmp_path, Pixels([ant, bee, cat, cat], [0, 1, 2, 1]), net, even)
    assert record['top1_error'] == 1 / 4
    loss = -np.log([19 / 33, 19 / 33, 19 / 33, 7 / 33]).mean()  # (1/11 + 1/3) / 2
    assert record['cross_entropy'] == pytest.approx(loss, rel=1e-6)
    confusion = next((tmp_path / 'out' / 'eval').glob('*.confusion.csv')).read_text()
    assert confusion.splitlines()[1:] == ['ant,1,0,0', 'bee,0,1,1', 'cat,0,0,1']


@pytest.mark.parametrize(
    ('batch_size', 'devices', 'ops', 'expected'),
    [
        (128, 8, 'decode', 128),
        (100, 8, 'decode', 96),
        (128, 1, 'decode|ten_crop(2)', 12),
        (128, 2, 'decode|mirrored_crops(2, 5)', 12),
        (4, 8, 'decode|crops(2, 50)', 8),
    ],
)
def test_batch_size(batch_size, devices, ops, expected):
    config = default_config()
    config.batch_size, config.data.eval_ops = batch_size, ops
    ensemble.fit_batch(config, devices)
    assert config.batch_size == expected


def test_scores_of_nets_of_the_same_names_are_kept(make_run, tmp_path):
    sure, wrong = make_run('a/run', np.log(9) * np.eye(3)), make_run('b/run', -np.eye(3))
    for folder in (sure, wrong, sure):
        config, members = ensemble.plan(None, str(tmp_path / 'out'), folder, None)
        data = Pixels([[1, 0, 0]], [0])
        ensemble.score(config, str(tmp_path / 'out'), data, members)
    records = [json.loads(p.read_text()) for p in (tmp_path / 'out' / 'eval').glob('*.json')]
    found = {record['members'][0]['workdir']: record['top1_error'] for record in records}
    assert (len(records), found) == (2, {sure: 0.0, wrong: 1.0})


def test_scores_with_other_ops_or_data_are_kept(make_run):
    """Though their names, of letters and digits alone, are the same."""
    run = make_run('run', np.eye(3))
    all_ops = ('decode', 'decode(stored)', 'decode(fast)', 'decode')
    cases = [('images', ops) for ops in all_ops] + [('a/b-c', 'decode'), ('a/b_c', 'decode')]
    for name, ops in cases:
        config, members = ensemble.plan(None, run, None, ops)
        config.data.name = name
        ensemble.score(config, run, Pixels([[1, 0, 0]], [0]), members)
    records = [json.loads(p.read_text()) for p in Path(run, 'eval').glob('*.json')]
    assert sorted((record['data'], record['ops']) for record in records) == sorted(set(cases))


def test_scores_that_are_computed_otherwise_are_kept(make_run):
    """In another precision or dtype, or on another part of a folder of images."""
    run = make_run('run', np.eye(3))
    cases = [('float32', 'default', 0.1), ('float32', 'highest', 0.1)]
    cases += [('bfloat16', 'default', 0.1), ('float32', 'default', 0.2)]
    for dtype, precision, fraction in [*cases, cases[0]]:
        config, members = ensemble.plan(None, run, None, None)
        config.dtype, config.precision, config.data.eval_fraction = dtype, precision, fraction
        ensemble.score(config, run, Pixels([[1, 0, 0]], [0]), members)
    configs = [json.loads(p.read_text())['config'] for p in Path(run, 'eval').glob('*.json')]
    found = [(c['dtype'], c['precision'], c['data']['eval_fraction']) for c in configs]
    assert sorted(found) == sorted(cases)


def test_the_nets_compute_as_the_config_says(make_run, monkeypatch):
    run, loaded, load = make_run('run', np.eye(3)), [], ensemble.TrainedNet.load
    config, members = ensemble.plan(None, run, None, None)
    config.dtype, config.precision = 'bfloat16', 'highest'
    monkeypatch.setattr(
        ensemble.TrainedNet, 'load', lambda *args: loaded.append(load(*args)) or loaded[-1]
    )
    ensemble.score(config, run, Pixels([[1, 0, 0]], [0]), members)
    (net,) = loaded
    assert (net.model.dtype, net.model.precision) == ('bfloat16', lax.Precision.HIGHEST)


def test_a_folder_whose_name_looks_like_a_step(make_run):
    run, other = make_run('run', np.eye(3)), make_run('run@40', np.eye(3))
    assert ensemble.parse_member(other) == (other, None)
    assert ensemble.parse_member(f'{other}@10') == (other, 10)
    assert ensemble.parse_member(f'{run}@10') == (run, 10)


def test_runs_with_commas_in_their_names(make_run):
    names = ['lr=0.1,wd=1', 'lr=0.2', 'x,y,z']
    runs = [str(make_run(name, np.eye(3))) for name in names]
    _, members = ensemble.plan(None, runs[0], f'{runs[0]},{runs[1]}@last,{runs[2]}@1', None)
    assert members == [(runs[0], None), (runs[1], 1), (runs[2], 1)]
    with pytest.raises(BadInput, match=r'^nowhere holds no run'):
        ensemble.plan(None, runs[0], f'nowhere,{runs[1]}', None)


def test_the_last_checkpoint(tmp_path):
    for step in ('9', '10'):
        (tmp_path / 'run/checkpoints' / step).mkdir(parents=True)
    assert ensemble.parse_member(f'{tmp_path}/run@last') == (f'{tmp_path}/run', 10)
    assert ensemble.parse_member(f'{tmp_path}/none@last') == (f'{tmp_path}/none', None)


def test_what_concerns_training_alone_does_not_hinder(make_run):
    """Pairs on a device, and slices of 3 inputs, would not work out on two devices."""
    config = read_config(run := make_run('run', np.eye(3)))
    config.mixup_alpha, config.parallelism, config.batch_size = 0.2, 'hybrid', 2
    Path(run, 'config.json').write_text(config.to_json())
    validate(ensemble.plan(None, run, None, None)[0], devices=2)


@pytest.mark.parametrize('letter', ['x', '猫'])
def test_long_names_of_files_stay_apart(letter):
    runs = [f'runs/{letter * 40}{i}' for i in range(5)]
    names = {
        score_files.name_of(default_config(), 'out', [ensemble.Member(run, step) for run in runs])
        for step in (100, 200)
    }
    assert len(names) == 2
    lengths = {len(name.encode()) for name in names}
    longest = score_files.LONGEST_NAME
    assert longest - 3 < min(lengths) <= max(lengths) <= longest
