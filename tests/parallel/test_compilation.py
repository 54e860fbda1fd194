"""Which flags XLA gets, and where compiled steps are kept."""

import os

import jax
import pytest

from alexnet_jax.parallel import compilation

FLAG = '--xla_gpu_deterministic_ops'
CPU_FLAG = '--xla_cpu_experimental_ynn_fusion_type'


@pytest.mark.parametrize(
    ('given', 'deterministic', 'found'),
    [
        ('', True, [f'{FLAG}=true']),
        ('', False, []),
        ('--xla_x=1', True, [f'{FLAG}=true']),
        (f'{FLAG}=false', True, [f'{FLAG}=false']),  # the user's choice wins
    ],
)
def test_deterministic_sums_on_a_gpu(monkeypatch, given, deterministic, found):
    monkeypatch.setenv('XLA_FLAGS', given)
    compilation.set_xla_flags(deterministic)
    flags = os.environ['XLA_FLAGS'].split()
    assert [flag for flag in flags if flag.startswith(FLAG)] == found
    assert set(given.split()) <= set(flags)


def test_the_users_choice_for_a_cpu_wins(monkeypatch):
    monkeypatch.setattr(compilation.jax, '__version__', '0.10.2')
    monkeypatch.setenv('XLA_FLAGS', f'{CPU_FLAG}=X')
    compilation.set_xla_flags()
    assert os.environ['XLA_FLAGS'] == f'{CPU_FLAG}=X'
    monkeypatch.setenv('XLA_FLAGS', '')
    compilation.set_xla_flags()
    assert os.environ['XLA_FLAGS'].startswith(f'{CPU_FLAG}=')


@pytest.mark.parametrize(
    ('has_others', 'has_gpu', 'chosen', 'found'),
    [
        (False, False, None, '/home/me/.cache/alexnet_jax'),
        (False, True, None, '/home/me/.cache/alexnet_jax'),
        (True, False, None, '/home/me/.cache/alexnet_jax'),
        (True, True, None, None),  # the others would wait for one that reads what they compile
        (True, True, '/shared/compiled', '/shared/compiled'),
    ],
)
def test_the_cache(monkeypatch, has_others, has_gpu, chosen, found):
    monkeypatch.setenv('HOME', '/home/me')
    monkeypatch.setattr(compilation.hardware, 'has_nvidia_gpu', lambda: has_gpu)
    names = ('jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs')
    before = {name: jax.config.values[name] for name in names}
    try:
        jax.config.update('jax_compilation_cache_dir', chosen)
        compilation.enable_compilation_cache(has_others)
        assert jax.config.values['jax_compilation_cache_dir'] == found
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
