"""The experiment on fine-tuning: how it divides a folder, what it runs, and its table by hand."""

from pathlib import Path

import pytest
from experiments.made_up import record
from helpers import ROOT

from alexnet_jax.cli import load_recipe
from alexnet_jax.config import validate
from alexnet_jax.errors import BadInput
from alexnet_jax.experiments.finetuning import (
    FINETUNED,
    NEW,
    PRETRAINING,
    SCRATCH,
    SHOTS,
    STEPS,
    figure,
    lay_out,
    next_trial,
    table,
)
from alexnet_jax.experiments.records import Records
from alexnet_jax.training import optimizer


@pytest.fixture
def folder(tmp_path):
    """25 + 2 images of each new class, 3 + 1 of two others; all of different content."""
    counts = dict.fromkeys(NEW, (25, 2)) | {'boat': (3, 1), 'chest': (3, 1)}
    for name, both in counts.items():
        for split, count in zip(('train', 'validation'), both, strict=True):
            (tmp_path / 'images' / split / name).mkdir(parents=True)
            for number in range(count):
                path = tmp_path / 'images' / split / name / f'{number}.jpg'
                path.write_text(f'{split} {name} {number}')
    return tmp_path / 'images'


def contents(root: Path) -> dict[str, list[str]]:
    """{'train/cat': what its links lead to}, sorted."""
    return {
        str(place.relative_to(root)): sorted(path.read_text() for path in place.iterdir())
        for place in root.glob('*/*')
    }


def test_the_three_classes_are_set_aside(folder, tmp_path):
    lay_out(str(folder), tmp_path / 'runs', 0)
    pretraining = contents(tmp_path / 'runs' / 'data' / 'pretraining')
    assert pretraining == {
        f'{split}/{name}': [f'{split} {name} {i}' for i in range(count)]
        for name in ('boat', 'chest')
        for split, count in (('train', 3), ('validation', 1))
    }
    few = contents(tmp_path / 'runs' / 'data' / 'few_seed0')
    for name in NEW:
        train, validation = few[f'train/{name}'], few[f'validation/{name}']
        assert (len(train), len(validation)) == (SHOTS, 27 - SHOTS)
        assert not set(train) & set(validation)
    assert len(few) == 2 * len(NEW)


def test_each_seed_has_images_of_its_own(folder, tmp_path):
    for seed in (0, 1):
        lay_out(str(folder), tmp_path / 'runs', seed)
    data = tmp_path / 'runs' / 'data'
    assert contents(data / 'few_seed0') != contents(data / 'few_seed1')
    before = contents(data / 'few_seed0')
    lay_out(str(folder), tmp_path / 'runs', 0)
    assert contents(data / 'few_seed0') == before


def test_a_folder_that_will_not_do(folder, tmp_path):
    for path in list((folder / 'train' / NEW[1]).iterdir())[:7]:
        path.unlink()
    with pytest.raises(BadInput, match=f'more than {SHOTS} images of the class {NEW[1]}'):
        lay_out(str(folder), tmp_path / 'runs', 0)
    assert not (tmp_path / 'runs').exists()


def test_the_page_names_the_folders_that_it_looks_for():
    page = (ROOT / 'EXPERIMENTS.md').read_text()
    assert [name for name in NEW if f'`{name}`' not in page] == []


def test_another_folder_is_not_mixed_in(folder, tmp_path):
    lay_out(str(folder), tmp_path / 'runs', 0)
    folder.rename(tmp_path / 'moved')
    with pytest.raises(BadInput, match=r'another --folder; remove .*runs/data'):
        lay_out(str(tmp_path / 'moved'), tmp_path / 'runs', 0)


def test_every_trial_is_valid_and_pairs_take_the_same_steps(folder, tmp_path):
    runs = tmp_path / 'runs'
    lay_out(str(folder), runs, 0)
    configs = []
    for trial in (PRETRAINING, FINETUNED, SCRATCH):
        config = load_recipe(trial.config.format(runs=runs, seed=0))
        config.update_from_flattened_dict(trial.overrides)
        config.epochs = trial.epochs
        validate(config)
        configs.append(config)
        if trial is PRETRAINING:
            (runs / 'pretraining_seed0').mkdir()
            (runs / 'pretraining_seed0' / 'config.json').write_text(config.to_json())
    _, finetuned, scratch = configs
    for config in (finetuned, scratch):
        assert optimizer.total_steps(config, SHOTS * len(NEW)) == STEPS
    for key in ('variant', 'edits', 'image_size', 'num_classes', 'batch_size'):
        assert finetuned[key] == scratch[key]
    for key in ('name', 'train_ops', 'eval_ops'):
        assert finetuned.data[key] == scratch.data[key]


def test_pretraining_is_done_once(tmp_path):
    records = Records(tmp_path)
    assert next_trial(records, 0) == PRETRAINING
    records.put('finetuning', record(PRETRAINING, 0.4))
    for trial in (FINETUNED, SCRATCH):
        assert next_trial(records, 0) == trial
        records.put('finetuning', record(trial, 0.4))
    assert next_trial(records, 0) is None
    assert next_trial(records, 1) == FINETUNED


def test_table_by_hand(tmp_path):
    records = Records(tmp_path)
    records.put('finetuning', record(PRETRAINING, 0.25))
    for seed, scratch, finetuned in [(0, 0.5, 0.3), (1, 0.46, 0.36)]:
        records.put('finetuning', record(SCRATCH, scratch, seed))
        records.put('finetuning', record(FINETUNED, finetuned, seed))
    records.put('finetuning', record(FINETUNED, 0.2, 2))  # whose other half is not done
    assert table(records).splitlines() == [
        '| top-1, % | from scratch | fine-tuned | gain, points |',
        '| --- | --- | --- | --- |',
        '| seed 0 | 50.0 | 70.0 | +20.0 |',
        '| seed 1 | 54.0 | 64.0 | +10.0 |',
        # Student's t of one degree of freedom: 12.706, times 7.07 / sqrt(2).
        '| mean | 52.0 ± 2.8 (2 seeds) | 67.0 ± 4.2 (2 seeds) | +15.00 ± 63.53 points (2 seeds) |',
        '',
        'Pretraining: 12 epochs, 75.0% top-1 on its own classes.',
    ]
    (axes,) = figure(records).axes
    assert len(axes.lines) == 5
    records.put('finetuning', record(SCRATCH, seed=2))  # not scored
    assert 'seed 2' not in table(records)
