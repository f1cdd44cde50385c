"""The functions inside Flax (both of its interfaces) and Equinox models: used, trained, saved."""

from functools import partial

import equinox
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from gem_activations import GemSpec
from gem_activations.jax import egem, gem, segem

from ..sweeps import wide
from ..tolerances import value_ulps
from ..ulps import ulps_apart

DRAW = np.random.default_rng(7)
X = jnp.asarray(DRAW.standard_normal((32, 4)), jnp.float32)
Y = X @ jnp.array([[0.5], [-1.0], [0.2], [0.0]])


def descend(loss, parameters, rate):
    """Return the loss before and after forty steps of gradient descent."""

    @jax.jit
    def step(parameters):
        value, gradient = jax.value_and_grad(loss)(parameters)
        return value, jax.tree.map(lambda p, g: p - rate * g, parameters, gradient)

    values = []
    for _ in range(40):
        value, parameters = step(parameters)
        values.append(value)
    return values[0], values[-1]


def test_flax_linen():
    model = linen.Sequential([linen.Dense(16), partial(gem, n=2), linen.Dense(4), egem, linen.Dense(1)])
    variables = jax.jit(model.init)(jax.random.key(0), X)
    before, after = descend(lambda variables: jnp.mean((model.apply(variables, X) - Y) ** 2), variables, 0.1)
    assert after < 0.5 * before


def test_flax_nnx():
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(4, 16, rngs=rngs), partial(segem, n=2, eps=0.1), nnx.Linear(16, 1, rngs=rngs))
    graph, state = nnx.split(model)
    before, after = descend(lambda state: jnp.mean((nnx.merge(graph, state)(X) - Y) ** 2), state, 0.1)
    assert after < 0.5 * before


def test_equinox(tmp_path):
    def make(seed):
        return equinox.nn.MLP(4, 1, 16, 1, activation=partial(egem, n=2, eps=0.1), key=jax.random.key(seed))

    model = make(0)
    parameters, rest = equinox.partition(model, equinox.is_inexact_array)

    def loss(parameters):
        return jnp.mean((jax.vmap(equinox.combine(parameters, rest))(X) - Y) ** 2)

    before, after = descend(loss, parameters, 0.1)
    assert after < 0.5 * before
    equinox.tree_serialise_leaves(tmp_path / "model.eqx", model)
    loaded = equinox.tree_deserialise_leaves(tmp_path / "model.eqx", make(1))
    np.testing.assert_array_equal(jax.jit(jax.vmap(loaded))(X), jax.jit(jax.vmap(model))(X))


def test_a_parameter_of_flax_is_an_array():
    parameter = nnx.Param(X)
    assert ulps_apart(wide(gem(parameter)), GemSpec()(X), "float32").max() <= value_ulps(1)
