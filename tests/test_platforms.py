"""Which formulation a program gets: by_platform's choice, and what pmapped asks of it."""

import jax
import jax.numpy as jnp
import pytest

from alexnet_jax.parallel import pmap
from alexnet_jax.platforms import by_platform, tracing_for

ONES = jnp.ones((1, 2))


def chosen(x):
    return by_platform(x, cpu=lambda x: 2 * x, tpu=lambda x: 3 * x, gpu=lambda x: 5 * x)


@pytest.mark.parametrize(
    ('platform', 'factor'), [('cpu', 2), ('tpu', 3), ('gpu', 5), ('cuda', 5), ('rocm', 5)]
)
def test_a_known_platform_has_its_formulation_alone(platform, factor):
    with tracing_for(platform):
        jaxpr = jax.make_jaxpr(chosen)(ONES)
        assert chosen(ONES).tolist() == [[factor, factor]]
    assert [equation.primitive.name for equation in jaxpr.eqns] == ['mul']


def test_an_unknown_one_is_left_to_the_compiler():
    assert 'platform_index' in str(jax.make_jaxpr(chosen)(ONES))
    program = jax.jit(chosen)
    for _ in range(2):  # what is traced for one platform is not taken for another
        assert program(ONES).tolist() == [[2, 2]]
        with tracing_for('tpu'):
            assert program(ONES).tolist() == [[3, 3]]


def test_a_mapped_function_is_traced_for_its_devices():
    traced = []

    def noting(name):
        return lambda x: traced.append(name) or x

    names = ('cpu', 'tpu', 'gpu')
    mapped = pmap.pmapped(
        lambda x: by_platform(x, **{name: noting(name) for name in names}), (0,), out_axes=0
    )
    mapped(pmap.shard({'x': ONES.repeat(jax.local_device_count(), 0)})['x'])
    assert traced == ['cpu']
