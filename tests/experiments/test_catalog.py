"""What the records of experiments come to, by hand; every trial is a config that exists."""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from experiments.made_up import record
from helpers import ROOT

from alexnet_jax.cli import load_recipe
from alexnet_jax.config import validate_training
from alexnet_jax.experiments import authors_logs, dropout_ensemble, gradients, page
from alexnet_jax.experiments.ablation import change
from alexnet_jax.experiments.ablations import (
    DROPOUT_80SEC,
    FIVE_EPOCHS,
    LENET5,
    LONG_80SEC,
    NARROW,
    NET_18,
    NET_18_NO_NORMS,
    NET_19,
    ten_crops,
)
from alexnet_jax.experiments.catalog import EXPERIMENTS
from alexnet_jax.experiments.jpeg import PAIRS
from alexnet_jax.experiments.measure import MEASUREMENTS
from alexnet_jax.experiments.records import MEASURE, Records, Trial
from alexnet_jax.experiments.statistics import VERDICTS, Spread, detectable


@pytest.fixture
def records(tmp_path) -> Records:
    return Records(tmp_path / 'results')


def put(records: Records, trial: Trial, errors: list[float]) -> None:
    """Add a finished run for each test error in percent, of seeds 0, 1, ..."""
    for seed, error in enumerate(errors):
        records.put(trial.home, record(trial, error / 100, seed))


def all_trials(name: str, tmp_path: Path) -> list[Trial]:
    """Return the trials of an experiment's first seed, by pretending that each succeeds."""
    found = []
    records = Records(tmp_path / name)
    while (trial := EXPERIMENTS[name].next_trial(records, 0)) and trial not in found:
        found.append(trial)
        scores = made_up_scores(trial)
        records.put(trial.home, record(trial, 0.2, train=[(1.0, 0.5, 1), (trial.epochs, 0.2, 1)],
                                       scores=scores))  # fmt: skip
        for seed in range(1, 10) if name == 'dropout_ensemble' else ():
            records.put(trial.home, record(trial, 0.2, seed, scores=scores))
    assert EXPERIMENTS[name].table(records)
    assert EXPERIMENTS[name].verdict(records) in VERDICTS
    return found


def made_up_scores(trial: Trial) -> dict:
    """Return what a measurement might find."""
    match trial.config.removeprefix(MEASURE):
        case 'kernel_means':
            return {name: dict(layers) for name, layers in authors_logs.LOGGED_WEIGHTS.items()}
        case 'test_scores':
            return {'errors': [20.0 - i for i in range(trial.overrides['seeds'])]}
        case 'gradients':
            return {'layers': ['conv1', 'fc8'], 'norms': [[1.0, 2.0]] * 3, 'losses': [2.3, 2, 1]}
        case 'activation_times':
            return {name: {'forward': 1.0, 'both': 2.0} for name in gradients.ACTIVATIONS}
        case 'features':
            kinds = ['HOG', 'dense SIFT', 'bag of words', 'random fc7']
            kinds += ['trained pool3', 'trained fc6', 'trained fc7']
            return {'errors': {kind: [50.0, 40.0, 30.0, 20.0] for kind in kinds}}
    return {}


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_every_trial_is_a_valid_config(name, tmp_path):
    for place in ('train/a/1.png', 'train/b/2.png', 'validation/a/3.png', 'validation/b/4.png'):
        (tmp_path / 'images' / place).parent.mkdir(parents=True)
        (tmp_path / 'images' / place).touch()
    trials = all_trials(name, tmp_path)
    assert trials
    for trial in trials:
        recipe, overrides = trial.config, trial.overrides
        if recipe.startswith(MEASURE):
            assert recipe.removeprefix(MEASURE) in MEASUREMENTS
            recipe = overrides.get('recipe', '')
            overrides = overrides.get('overrides', {})
        if recipe and '{runs}' not in recipe:  # those of finetuning have tests of their own
            config = load_recipe(recipe.replace('{folder}', str(tmp_path / 'images')))
            config.update_from_flattened_dict(overrides)
            config.epochs = trial.epochs
            validate_training(config)
        assert EXPERIMENTS[trial.home]  # whose file has the record


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_its_records_are_those_of_its_trials(name, tmp_path):
    """Wherever they lie; only an experiment that shares no file may leave its trials unlisted."""
    experiment, trials = EXPERIMENTS[name], all_trials(name, tmp_path)
    assert all(trial in experiment.trials or not experiment.trials for trial in trials)
    found = experiment.found(name, Records(tmp_path / name))
    assert {path.stem for path in found} == {trial.home for trial in trials}
    recorded = {(path.stem, record.trial) for path, those in found.items() for record in those}
    assert recorded == {(trial.home, trial.name) for trial in trials}


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_before_it_is_run(name, records):
    experiment = EXPERIMENTS[name]
    assert 'not run yet' in experiment.table(records)
    assert experiment.verdict(records) == 'not run'
    assert experiment.summary(records) == ''
    assert not (experiment.figure and experiment.figure(records))
    for part in experiment.table(records).split('\n\n'):
        columns = {line.count('|') for line in part.splitlines()}
        assert len(columns) == 1
    assert experiment.seeds_behind(records) == experiment.seeds
    assert math.isfinite(experiment.cost(experiment.seeds))
    assert 'undecided otherwise' in experiment.rule() or experiment.decide


def test_seeds_beyond_the_design_are_typed_to_repeat_a_verdict(records):
    (small, *_, large), jpeg = PAIRS[:3], EXPERIMENTS['jpeg']
    for trial, seeds in [(trial, 7) for trial in small] + [(trial, 5) for trial in large]:
        put(records, trial, list(range(20, 20 + seeds)))
    assert jpeg.seeds == 5
    assert jpeg.seeds_behind(records) == 7
    assert page.command('jpeg', jpeg, records) == 'jpeg --seeds=7 --folder=PATH'


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_what_is_committed_is_of_the_trials_as_they_are_now(name):
    records, experiment = Records(ROOT / 'results'), EXPERIMENTS[name]
    experiment.table(records)
    experiment.next_trial(records, 0)
    homes = {path.stem for path in (ROOT / 'results').glob('*.jsonl')}
    assert homes <= EXPERIMENTS.keys()


def test_changes_are_paired_by_seed(records):
    put(records, FIVE_EPOCHS, [25.0, 27.0])
    put(records, change(FIVE_EPOCHS, 'no_lrn', edits=('no_lrn',)), [26.0, 30.0])
    neither = change(FIVE_EPOCHS, 'neither', edits=('no_lrn', 'non_overlapping_pool'))
    partial = record(neither, state='stopped', train=[(1.5, 0.4, 1)], evals=[(1.0, 0.5, 1)])
    records.put('norm_and_pool', partial)
    lines = EXPERIMENTS['norm_and_pool'].table(records).splitlines()
    first = '| norms, overlapping pools | 5 | 20.0 | 26.00 ± 1.41 (2 seeds) |'
    assert lines[2].startswith(first)
    # 26 and 30 less 25 and 27: 1 and 3, mean 2, standard error 1, 12.71 of them on either side.
    assert lines[3] == (
        '| no norms | 5 | 20.0 | 28.00 ± 2.83 (2 seeds) | +2.00 ± 12.71 points (2 seeds) |'
    )
    assert lines[4].startswith('| 2x2 pools |  |  | not run yet |')
    assert lines[5].startswith('| no norms, 2x2 pools | 1.5 of 5 (stopped) |  | not run yet |')
    assert EXPERIMENTS['norm_and_pool'].verdict(records) == 'undecided'


def test_five_pairs_decide(records):
    """Dropout gains 4, 3, 4, 5 and 4 points: 4 ± 2.776 sqrt(0.5 / 5)."""
    put(records, LONG_80SEC, [24.0, 23.0, 24.0, 25.0, 24.0])
    put(records, DROPOUT_80SEC, [20.0] * 5)
    experiment = EXPERIMENTS['dropout']
    assert experiment.summary(records) == '+4.00 ± 0.88 points (5 seeds)'
    assert experiment.verdict(records) == 'supported'
    assert len(experiment.figure(records).axes[0].lines) == 20  # ten runs, training and test


def test_long_runs_pool_the_deviation_of_the_seeds(records):
    """Of norms, of no norms, of the 19% net: squares 0.02, 0.02 and 0.02, of 1, 1 and 1 degrees."""
    put(records, NET_18, [19.0, 19.2])
    put(records, NET_18_NO_NORMS, [20.0, 20.2])
    assert EXPERIMENTS['norms'].summary(records).startswith('+1.00 ± 0.61 points')
    put(records, NET_19, [19.5, 19.7])
    # sqrt(2 x 0.02 / 2 pairs) = 0.1414, times 3.182 for 3 degrees of freedom.
    assert EXPERIMENTS['norms'].summary(records) == (
        '+1.00 ± 0.45 points (2 seeds, 3 degrees of freedom)'
    )
    assert EXPERIMENTS['norms'].verdict(records) == 'supported'
    # One net has the deviation of a run, and two seeds: sqrt(0.02 / 2) x 3.182 = 0.318.
    assert EXPERIMENTS['cifar10_18pct'].summary(records) == (
        '19.10 ± 0.32 % (2 seeds, 3 degrees of freedom)'
    )
    assert EXPERIMENTS['cifar10_18pct'].verdict(records) == 'not supported'


def test_a_net_that_diverges_decides_nothing(records):
    """Five pairs would decide without the sixth, whose net without dropout has no error."""
    put(records, LONG_80SEC, [24.0, 23.0, 24.0, 25.0, 24.0])
    put(records, DROPOUT_80SEC, [20.0] * 6)
    experiment = EXPERIMENTS['dropout']
    assert experiment.verdict(records) == 'supported'
    records.put('dropout', record(LONG_80SEC, seed=5, state='diverged'))
    assert experiment.verdict(records) == 'undecided'
    assert experiment.summary(records) == 'runs diverged (6 seeds)'
    assert '24.00 ± 0.71 (5 seeds), 1 diverged' in experiment.table(records)


def test_a_net_that_diverges_leaves_the_pooled_deviation_alone(records):
    put(records, NET_18, [19.0, 19.2])
    put(records, NET_18_NO_NORMS, [20.0, 20.2])
    put(records, NET_19, [19.5, 19.7])
    records.put('cifar10_19pct', record(NET_19, seed=2, state='diverged'))
    assert EXPERIMENTS['norms'].summary(records) == (
        '+1.00 ± 0.45 points (2 seeds, 3 degrees of freedom)'
    )
    assert EXPERIMENTS['cifar10_19pct'].verdict(records) == 'undecided'


@pytest.mark.parametrize(('percent', 'seeds'), [('14', 3), ('13', 2), ('11', 2)])
def test_ten_crops_decide_with_the_seeds_that_are_asked_for(records, percent, seeds):
    """Their own scatter counts: nothing else on such a net may have been run."""
    experiment = EXPERIMENTS[f'cifar10_{percent}pct']
    name = f'cifar10_{percent}pct'
    crops = ten_crops(Trial(name, 'published', name, {}, 1.0))
    for seed in range(seeds):
        records.put(name, record(crops, seed=seed, scores={'errors': [20.0 + 0.1 * seed]}))
    assert experiment.seeds == seeds
    assert experiment.verdict(records) == 'not supported'
    assert f'{seeds - 1} degree' in experiment.summary(records)
    # A net that diverged is not scored on ten crops, and decides nothing.
    trial = experiment.next_trial(records, seeds)
    assert trial
    assert trial.name == 'published'
    records.put(name, record(trial, seed=seeds, state='diverged'))
    assert experiment.next_trial(records, seeds) is None
    assert experiment.verdict(records) == 'undecided'
    assert f'| seed {seeds} | ' in experiment.table(records)
    assert '| diverged |' in experiment.table(records)


def test_what_a_design_detects_counts_from_its_threshold(records):
    """A ratio that the interval must leave 3 below."""
    (ratio,) = EXPERIMENTS['relu_vs_tanh'].comparisons
    shown = re.search(r'3 seeds can show ([\d.]+) times', ratio.plan(records, 3))
    assert shown
    assert 3 < float(shown[1]) < 5
    (average,) = EXPERIMENTS['dropout_ensemble'].comparisons
    assert 'too few seeds' in average.plan(records, 6)  # one pair: seeds 0 and 5


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_one_seed_shows_nothing_unless_others_have_run(name, records):
    plans = [c.plan(records, 1) for c in EXPERIMENTS[name].comparisons if c.rule]
    assert all('too few seeds for an interval; pass --seeds=' in plan for plan in plans)


def test_what_long_runs_detect(records):
    """Three seeds of two nets give 4 degrees of freedom: 0.5 points x 3.7 / sqrt(3) and more."""
    (norms,) = EXPERIMENTS['norms'].comparisons
    shown = re.search(r'3 seeds can show ([\d.]+) points', norms.plan(records, 3))
    assert shown
    expected = detectable(Spread(0.5, 4), 3)
    assert float(shown[1]) == pytest.approx(expected, abs=0.05)
    # Nor is it more with the three runs of the net with norms: no other run of it is to come.
    put(records, NET_18, [19.6, 19.4, 19.9])
    assert norms.plan(records, 3) == norms.plan(Records(Path('nowhere')), 3)
    put(records, NET_18, [19.6, 19.4, 19.9, 19.7, 19.5])
    assert 'measured, 4 degrees of freedom' in norms.plan(records, 3)


def test_a_published_figure_is_reached_if_the_error_rounds_to_it(records):
    trial = Trial('cifar10_80sec', 'published', 'cifar10_80sec', {}, 10.0)
    put(records, trial, [26.2, 26.3, 26.2, 26.3, 26.2])
    assert EXPERIMENTS['cifar10_80sec'].verdict(records) == 'supported'
    assert '| seed 1 | 10 | 26.30 | 26 |' in EXPERIMENTS['cifar10_80sec'].table(records)


def test_one_net_with_dropout_beside_averages(records):
    for seed in range(5):
        scores = {'errors': [24.0, 21.0 + 0.1 * seed]}
        records.put('dropout_ensemble', record(dropout_ensemble.PAIR, seed=seed, scores=scores))
    scores = {'errors': [24.5, 21.5, *[20.0] * 8]}
    records.put('dropout_ensemble', record(dropout_ensemble.ALL, scores=scores))
    put(records, DROPOUT_80SEC, [20.0] * 5)
    experiment = EXPERIMENTS['dropout_ensemble']
    # 1.0 to 1.4: mean 1.2, deviation 0.158.
    assert experiment.summary(records) == '+1.20 ± 0.20 points (5 seeds)'
    assert experiment.verdict(records) == 'supported'
    table = experiment.table(records)
    assert '| average of 2 without dropout | 2 | 21.20 ± 0.16 (5 seeds) |' in table
    assert '| average of 3 without dropout | 3 | 20.00 (1 seed) |' in table
    (comparison,) = experiment.comparisons
    assert comparison.plan(records, 3).endswith('pass --seeds=10')
    assert '10 seeds can show' in comparison.plan(records, 10)


def test_averages_wait_for_all_nets(records):
    next_trial = EXPERIMENTS['dropout_ensemble'].next_trial
    put(records, DROPOUT_80SEC, [20.0] * 5)
    put(records, LONG_80SEC, [24.0] * 5)
    assert not next_trial(records, 0)
    put(records, LONG_80SEC, [24.0] * 6)
    assert next_trial(records, 0) == dropout_ensemble.PAIR
    assert not next_trial(records, 1)
    assert next_trial(records, 9) == LONG_80SEC  # without dropout only
    put(records, LONG_80SEC, [24.0] * 10)
    scores = {'errors': [24.0, 21.0]}
    records.put('dropout_ensemble', record(dropout_ensemble.PAIR, scores=scores))
    assert next_trial(records, 0) == dropout_ensemble.ALL
    assert next_trial(records, 1) == dropout_ensemble.PAIR


def test_ten_crops_come_last(tmp_path):
    """A verdict does not wait for workdirs that somebody else has."""
    names = [trial.name for trial in all_trials('augmentation', tmp_path)]
    assert names[:4] == ['both', 'crop', 'mirror', 'none']
    assert all(name.endswith('_ten_crops') for name in names[4:])


@pytest.mark.parametrize(
    ('name', 'first'), [('augmentation', 'both'), ('cifar10_14pct', 'published')]
)
def test_no_net_waits_for_the_ten_crops_of_another_seed(name, first, records):
    nets, crops = EXPERIMENTS[name].stages
    while trial := nets(records, 0):
        records.put(trial.home, record(trial, 0.2))
    for stage, seed, expected in ((nets, 1, first), (crops, 0, f'{first}_ten_crops')):
        trial = stage(records, seed)
        assert trial
        assert trial.name == expected
    assert crops(records, 1) is None  # there is no net yet


def test_the_error_of_a_seed_is_that_of_the_better_lenet(records):
    """Both rates of LeNet-5 must be worse."""
    experiment = EXPERIMENTS['lenet']
    slow, fast = [c.label for c in experiment.comparisons]
    put(records, NARROW, [20.0] * 5)
    put(records, LENET5, [30.0, 30.1, 30.2, 30.0, 30.1])
    assert experiment.verdict(records) == 'undecided'
    put(records, change(LENET5, 'lenet5_fast', optimizer__learning_rate=0.01), [30.0, 30.1] * 3)
    assert experiment.verdict(records) == 'supported'
    assert (slow, fast) == (
        'LeNet-5 - narrow AlexNet', 'LeNet-5, rate 0.01 - narrow AlexNet',
    )  # fmt: skip


# The authors' logs


def test_beside_the_logs(records):
    """Within 0.8 points in each epoch, or not."""
    curve = [(float(e), error / 100, 1.0) for e, error in enumerate(authors_logs.LOGGED_80SEC, 1)]
    records.put('authors_logs', record(authors_logs.NET_80SEC, train=curve))
    experiment = EXPERIMENTS['authors_logs']
    assert experiment.verdict(records) == 'supported'
    curve[1] = (2.0, (46.4 - 2.3) / 100, 1.0)
    records.put('authors_logs', record(authors_logs.NET_80SEC, train=curve))
    assert experiment.verdict(records) == 'not supported'
    assert experiment.summary(records) == (
        'at most -2.3 points in epochs 1-3, +0.0 in epochs 4-12 (1 seed)'
    )
    first, *_ = experiment.table(records).splitlines()[2:]
    assert first.startswith('| 80-second net, here, seed 0 | 61.4 | 44.1 | 39.2 |')
    records.put('authors_logs', record(authors_logs.NET_80SEC, seed=1, train=[], state='diverged'))
    assert experiment.verdict(records) == 'undecided'
    assert experiment.summary(records).endswith('(1 seed), 1 diverged')
    weights = {name: dict(layers) for name, layers in authors_logs.LOGGED_WEIGHTS.items()}
    weights['19pct']['fc10'] *= 1.5
    records.put('authors_logs', record(authors_logs.WEIGHTS, scores=weights))
    assert '| 19% net | fc10 | 0.00274 (+50%) | 0.00183 |' in experiment.table(records)
    assert '| 19% net | conv2 | 0.00883 (+0%) | 0.00883 |' in experiment.table(records)


# Features


def test_learned_features_beside_handmade_ones(records):
    """Errors are drawn from 0; the best of HOG, SIFT and words counts, with all images."""
    experiment = EXPERIMENTS['features']
    (*_, trial) = experiment.trials
    scores = made_up_scores(trial)
    scores['errors']['HOG'][-1] = 19.0  # the others: 20
    for seed in range(2):
        records.put(trial.home, record(trial, seed=seed, scores=scores))
    assert '-1.00 ± 0.00 points (2 seeds)' in experiment.summary(records)
    assert '| HOG | 50.0 ± 0.0 (2 seeds) | 40.0' in experiment.table(records)
    assert experiment.figure
    figure = experiment.figure(records)
    assert figure
    (axes,) = figure.axes
    assert (axes.get_yscale(), axes.get_ylim()[0]) == ('linear', 0)
    assert [label.get_text() for label in axes.get_xticklabels()] == ['10', '100', '1,000', 'all']


def test_a_folder_of_500_images_a_class_has_no_column_of_1000():
    (*_, trial) = EXPERIMENTS['features_folder'].trials
    assert trial.overrides['counts'] == (10, 100, 0)


# Gradients


def test_gradients_lost_from_the_last_layer_to_the_first(records):
    """ReLU keeps a tenth, the sigmoid a ten-thousandth: three powers of ten."""
    for seed in range(5):
        for net in gradients.NETS:
            for name, kept in (('relu', 0.1), ('sigmoid', 1e-4 * (1 + 0.1 * seed))):
                scores = {
                    'layers': ['conv1', 'fc7', 'fc8'],
                    'norms': [[2 * kept, 1.0, 2.0]] * 3,
                    'losses': [2.3, 2.0, 1.5],
                }
                trial = gradients.make_trial(net, name)
                records.put('gradients', record(trial, seed=seed, scores=scores))
        times = {name: {'forward': 1.0, 'both': 2.0} for name in gradients.ACTIVATIONS}
        times['sigmoid']['both'] = 3.0 + 0.1 * seed
        records.put('gradients', record(gradients.TIMES, seed=seed, scores=times))
    experiment = EXPERIMENTS['gradients']
    found = [c.estimate(records).mean for c in experiment.comparisons]
    lost = sum(math.log10(1 + 0.1 * seed) for seed in range(5)) / 5
    assert found == pytest.approx([3 - lost, 3 - lost, 60.0])
    assert experiment.verdict(records) == 'supported'
    assert '| course net, narrowed | ReLU | 0.1 | 0.1 | 0.1 | 1.50 ' in experiment.table(records)
    panels = experiment.figure(records).axes
    assert [len(axes.lines) for axes in panels] == [2, 2, 2, 2]


def test_gradients_that_are_lost_altogether(records):
    """Where the sigmoid's become 0, float32's smallest number stands for them."""
    for seed in range(5):
        for net, (name, first) in itertools.product(
            gradients.NETS, [('relu', 0.1), ('sigmoid', 0.0)]
        ):
            scores = {'layers': ['conv1', 'fc8'], 'norms': [[first, 1.0]] * 3, 'losses': [2] * 3}
            trial = gradients.make_trial(net, name)
            records.put('gradients', record(trial, seed=seed, scores=scores))
    narrow, *_ = EXPERIMENTS['gradients'].comparisons
    assert narrow.estimate(records).mean == pytest.approx(44.0)
    assert narrow.verdict(records) == 'supported'


def test_nets_without_gradients_are_counted_and_not_drawn(records):
    """Ratios 0.1 and 0.001 make 0.01; a third net has died, and a fourth diverged."""
    after_300 = [[1.0, 10.0], [0.01, 10.0], [0.0, 10.0], [float('nan')] * 2]
    for seed, last in enumerate(after_300):
        norms = [[1.0, 2.0], [1.0, 2.0], last]
        for net, name in itertools.product(gradients.NETS, gradients.ACTIVATIONS):
            scores = {'layers': ['conv1', 'fc8'], 'norms': norms, 'losses': [2.3, 2, 1]}
            records.put(
                'gradients', record(gradients.make_trial(net, name), 0.0, seed, scores=scores)
            )
    cells = '| course net, full width | ReLU | 0.5 | 0.5 | 0.01 (2 of 4 seeds) |'
    assert cells in gradients.table(records)
    figure = gradients.figure(records)
    assert figure is not None
    for panel, ends in zip(figure.axes, [[1, 2], [0.1, 10]] * 2, strict=False):
        np.testing.assert_allclose(panel.lines[0].get_ydata(), ends)
