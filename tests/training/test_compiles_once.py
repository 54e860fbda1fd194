"""A run compiles its training step and its evaluation step once, however long it is."""

import jax
import pytest
from fake_data import TINY, FakeData, config_of

from alexnet_jax.model import variants
from alexnet_jax.training.loop import train_and_evaluate

pytestmark = pytest.mark.slow

COMPILING = '/jax/core/compile/backend_compile_duration'
PMAPPED = 'jit(_fun)'  # the name that JAX 0.10.2 gives whatever pmap compiles


@pytest.fixture
def compiled():
    """The names of what XLA compiles during a test, as a list that grows."""
    names = []

    def listen(event: str, seconds: float, **metadata) -> None:
        if event == COMPILING:
            names.append(metadata['fun_name'])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize('parts', [1, 2])
def test_a_run_compiles_each_step_once(compiled, monkeypatch, tmp_path, parts):
    """Every step is logged; steps 3 and 6 are evaluated and saved."""
    monkeypatch.setitem(variants.VARIANTS, 'tiny', TINY)
    changes = {'log_every': 1, 'eval_every': 3, 'checkpoint_every': 3, 'epochs': 2.0}
    config = config_of(accum_steps=parts, **changes)
    ready = {}  # {step: how much was compiled when its first batch was asked for}
    data = FakeData(
        config, on_batch=lambda i: ready.setdefault((i - 1) // parts + 1, len(compiled))
    )
    train_and_evaluate(config, str(tmp_path), data)
    assert list(ready) == [1, 2, 3, 4, 5, 6]
    assert 1 <= compiled[ready[1] : ready[2]].count(PMAPPED) <= parts
    assert ready[2] == ready[3]
    assert compiled[ready[3] : ready[4]] == [PMAPPED]  # the evaluation
    assert len(compiled) == ready[4]
