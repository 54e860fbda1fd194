"""Which flags XLA gets."""

import os

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
