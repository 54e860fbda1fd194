"""A run is made again from what it recorded, and two runs of one config are the same bits."""

import json

import cli_runs
import pytest
from cli_runs import assert_same_run

from alexnet_jax.cli import load_recipe
from alexnet_jax.errors import BadInput

FLAGS = (
    '--config.epochs=0.45',  # 10 steps
    '--config.log_every=2',
    '--config.eval_every=5',
    '--config.checkpoint_every=5',
    '--config.seed=3',
)


@pytest.fixture(scope='module')
def finished(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp('rerun') / 'finished'
    cli_runs.train(workdir, cache, *FLAGS)
    return workdir


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_runs_are_the_same_bits(tmp_path, cache, finished):
    cli_runs.train(tmp_path / 'again', cache, *FLAGS)
    assert_same_run(tmp_path / 'again', finished)


@pytest.mark.slow
def test_a_run_is_made_again_from_its_record(tmp_path, cache, finished, monkeypatch):
    """config.json is the recipe; environment.json has the XLA flags and the devices."""
    environment = json.loads((finished / 'environment.json').read_text())
    assert environment['hosts'] == 1
    monkeypatch.setattr(cli_runs, 'FLAGS', (f'--config={finished}/config.json',))
    cli_runs.train(tmp_path / 'again', cache, devices=len(environment['devices']))
    assert_same_run(tmp_path / 'again', finished)
    for name in ('config.json', 'classes.json'):
        assert (tmp_path / 'again' / name).read_text() == (finished / name).read_text()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_deterministic_is_accepted_and_recorded(tmp_path, cache, finished):
    """It is for GPUs; on a CPU it changes nothing."""
    workdir = tmp_path / 'run'
    cli_runs.train(workdir, cache, *FLAGS, '--config.deterministic=True')
    environment = json.loads((workdir / 'environment.json').read_text())
    assert '--xla_gpu_deterministic_ops=true' in environment['xla_flags'].split()
    assert_same_run(workdir, finished)


@pytest.mark.parametrize('text', ['', '{"batch_size": ', '[]', '{"batch_size": {"a": 1}}'])
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(BadInput, match=r'config\.json'):
        load_recipe(str(tmp_path / 'config.json'))


def test_another_json_is_refused(tmp_path):
    (tmp_path / 'x.json').write_text('{}')
    with pytest.raises(BadInput, match=r'x\.json: .* config\.json of a run'):
        load_recipe(str(tmp_path / 'x.json'))
