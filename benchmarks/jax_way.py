"""The loss of an equation's residual and its gradient by jitted JAX, with the weights of one of our networks, on one core.

JAX is for this comparison alone: pip install 'pinn-lora[bench]'. It is imported, and its backend started, in `load`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from equations import Equation
from side_by_side import Way, environment
from torch import Tensor

from pinn_lora.lora import Blocks, LoRALinear
from pinn_lora.networks.mlp import MLP

FLAGS = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1", "JAX_PLATFORMS": "cpu"}
CHUNK = 512  # points
MISSING = "JAX is not installed, so its column is left out: pip install 'pinn-lora[bench]'"


@contextlib.contextmanager
def one_core() -> Iterator[bool]:
    """Holds this thread, and those that it starts, to one core; False where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield True
    finally:
        os.sched_setaffinity(0, before)


def load() -> Any:
    """JAX, its CPU backend started on threads of the calling thread's cores; None where it is not installed."""
    try:
        with environment(**FLAGS):
            jax = importlib.import_module("jax")
            jax.devices("cpu")
    except ImportError:
        return None
    return jax


def jax_ways(jax: Any, equation: Equation, network: torch.nn.Module, points: Tensor) -> dict[str, Way]:
    """The loss and its gradient in theta's order by nested jvp and by nested reverse mode, at all points together and, where
    `CHUNK` divides them, in chunks: these need no buffer that the system has to give again at every call."""
    n = len(points)
    sizes = {"": n} | ({", chunks": CHUNK} if n > CHUNK and n % CHUNK == 0 else {})
    ways = {"jvp": _forward, "reverse": _reverse}
    return {
        name + end: _way(jax, equation, network, points, make, size)
        for name, make in ways.items()
        for end, size in sizes.items()
    }


def _way(jax: Any, equation: Equation, network: torch.nn.Module, points: Tensor, make: Callable, size: int) -> Way:
    jnp, blocks = jax.numpy, Blocks(network)
    keys = [key for block in blocks.blocks for key in block.keys]
    x64 = points.dtype == torch.float64
    with jax.enable_x64(x64):  # a switch for what is made and run inside, here and below: the process's own stays
        X = jnp.asarray(points.numpy()).reshape(-1, size, points.shape[1])
        held = blocks.parameters(blocks.read(network))
        theta = {key: jnp.asarray(held[key].numpy()) for key in keys}
        solve = _network(jnp, network)

    def loss(theta: dict, x: Any) -> Any:
        u = lambda x: solve(theta, x)  # noqa: E731
        d = {"u": u(x), "sin": jnp.sin, **make(jax, u, x, equation)}
        return jnp.square(equation.residual(x[:, 0], x[:, 1], d)).sum() / len(points)

    def total(theta: dict, X: Any) -> Any:
        part = lambda x: jax.value_and_grad(loss)(theta, x)  # noqa: E731
        add = lambda sums, x: (jax.tree.map(jnp.add, sums, part(x)), None)  # noqa: E731
        return jax.lax.scan(add, part(X[0]), X[1:])[0] if len(X) > 1 else part(X[0])

    both = jax.jit(total)

    def run() -> tuple[Tensor, Tensor]:
        with jax.enable_x64(x64):
            value, gradient = jax.block_until_ready(both(theta, X))
        parts = [torch.tensor(np.asarray(gradient[key])).reshape(-1) for key in keys]
        return torch.tensor(float(value), dtype=torch.float64), torch.cat(parts)

    return run


def _network(jnp: Any, network: torch.nn.Module) -> Callable[[dict, Any], Any]:
    """u(theta, X) (N,) of an MLP of ours without periodic coordinates, adapted or not; what is frozen is a constant."""
    if not isinstance(network, MLP) or network.periodic or network.frequencies is not None:
        raise ValueError("the JAX column is for an MLP with plain coordinates as its features")
    lower, upper = (jnp.asarray(bound) for bound in (network.domain.lower, network.domain.upper))
    frozen = {name: jnp.asarray(value.detach().numpy()) for name, value in network.state_dict().items()}
    scales = {i: layer.scale for i, layer in enumerate(network.layers) if isinstance(layer, LoRALinear)}

    def weight(held: dict, i: int) -> Any:
        W, at = held[f"layers.{i}.weight"], f"layers.{i}."
        if i not in scales:
            return W
        change = held[at + "B"] @ held[at + "A"]
        if at + "B0" in held:
            change = change - held[at + "B0"] @ held[at + "A0"]
        return W + scales[i] * change

    def solve(theta: dict, X: Any) -> Any:
        held = {**frozen, **theta}
        h, last = (X - 0.5 * (lower + upper)) * (2.0 / (upper - lower)), len(network.layers) - 1
        for i in range(last + 1):
            h = h @ weight(held, i).T + held[f"layers.{i}.bias"]
            h = h if i == last else jnp.tanh(h)
        return h[:, 0]

    return solve


def _forward(jax: Any, u: Callable, X: Any, equation: Equation) -> dict[str, Any]:
    found, names = {}, equation.problem.domain.names
    for column, order in equation.orders.items():
        along, name = jax.numpy.zeros_like(X).at[:, column].set(1.0), names[column]
        slope = lambda X, along=along: jax.jvp(u, (X,), (along,))[1]  # noqa: E731
        if order == 1:
            found[name] = slope(X)
        else:
            found[name], found[2 * name] = jax.jvp(slope, (X,), (along,))
    return found


def _reverse(jax: Any, u: Callable, X: Any, equation: Equation) -> dict[str, Any]:
    found, names = {}, equation.problem.domain.names
    first = jax.grad(lambda X: u(X).sum())
    every = first(X)
    for column, order in equation.orders.items():
        found[names[column]] = every[:, column]
        if order == 2:
            found[2 * names[column]] = jax.grad(lambda X, column=column: first(X)[:, column].sum())(X)[:, column]
    return found


def share_of_wall(way: Way, calls: int = 3) -> float:
    """The process's CPU seconds over the wall clock's: above 1 where more than one core works."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        way()
    return (time.process_time() - cpu) / (time.perf_counter() - wall)
