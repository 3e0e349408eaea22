"""DeepXDE's own published examples, and another member of each one's family: adapted by `finetune`, and inside DeepXDE.

    python benchmarks/deepxde_examples.py    # DeepXDE's own lengths, hours
    python benchmarks/deepxde_examples.py --share 0.02 --only burgers    # a fiftieth of every length, one example

Burgers, Allen-Cahn, Helmholtz_Dirichlet_2d and Poisson_Lshape as they are published, but for the coefficient as an argument and
double precision. Columns: relative L2 error of DeepXDE's trained model, of that model unchanged on the other member, after
`pl.finetune(pl.from_deepxde(data, model), pl.from_deepxde(other))`, and after `pl.adapt_model` with a FactorOptimizer in
`model.compile` and `model.train`; seconds beside each, by CPU time on one thread. What is finished stays in the file,
results/benchmarks/deepxde_examples.json: call again to go on. References: Cole-Hopf, Chebyshev collocation, a closed form,
corners.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

os.environ["DDE_BACKEND"] = "pytorch"

import deepxde
import numpy as np
import scipy.integrate
import scipy.interpolate
import torch
from pinn_lora.problems.burgers import Burgers
from pinn_lora.problems.poisson_lshape import CORNERS, PoissonLShape

import pinn_lora as pl
from pinn_lora.about import machine, versions
from pinn_lora.clock import seconds
from pinn_lora.folders import write_atomically

dde: Any = deepxde  # as the examples call it; its modules are not known to a type checker
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Example:
    """data and network for a coefficient, the published one and another, the true solution (n, 1), and DeepXDE's training."""

    make: Callable[[float, int | None], tuple[Any, Any]]
    base: float
    other: float
    exact: Callable[[float, np.ndarray], np.ndarray]
    adam: int
    lbfgs: bool
    rank: int = 8
    loss_weights: list[float] | None = None


def burgers(nu: float, width: int | None = None) -> tuple[Any, Any]:
    def pde(x, y):
        dy_x = dde.grad.jacobian(y, x, i=0, j=0)
        dy_t = dde.grad.jacobian(y, x, i=0, j=1)
        dy_xx = dde.grad.hessian(y, x, i=0, j=0)
        return dy_t + y * dy_x - nu * dy_xx

    geom = dde.geometry.Interval(-1, 1)
    geomtime = dde.geometry.GeometryXTime(geom, dde.geometry.TimeDomain(0, 0.99))
    bc = dde.icbc.DirichletBC(geomtime, lambda x: 0, lambda _, on_boundary: on_boundary)
    ic = dde.icbc.IC(geomtime, lambda x: -np.sin(np.pi * x[:, 0:1]), lambda _, on_initial: on_initial)
    data = dde.data.TimePDE(geomtime, pde, [bc, ic], num_domain=2540, num_boundary=80, num_initial=160)
    return data, dde.nn.FNN([2] + [width or 20] * 3 + [1], "tanh", "Glorot normal")


def burgers_exact(nu: float, x: np.ndarray) -> np.ndarray:
    return Burgers(nu=nu).reference_values(torch.from_numpy(x))


def allen_cahn(d: float, width: int | None = None) -> tuple[Any, Any]:
    def pde(x, y):
        dy_t = dde.grad.jacobian(y, x, i=0, j=1)
        dy_xx = dde.grad.hessian(y, x, i=0, j=0)
        return dy_t - d * dy_xx - 5 * (y - y**3)

    def output_transform(x, y):
        return x[:, 0:1] ** 2 * torch.cos(np.pi * x[:, 0:1]) + x[:, 1:2] * (1 - x[:, 0:1] ** 2) * y

    geomtime = dde.geometry.GeometryXTime(dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1))
    data = dde.data.TimePDE(geomtime, pde, [], num_domain=8000, num_boundary=400, num_initial=800)
    net = dde.nn.FNN([2] + [width or 20] * 3 + [1], "tanh", "Glorot normal")
    net.apply_output_transform(output_transform)
    return data, net


@lru_cache(maxsize=4)
def allen_cahn_path(d: float, n: int = 320) -> Any:
    """Chebyshev collocation in x on n + 1 nodes, u(+-1) = -1, implicit Runge-Kutta 5 in t to 1e-9; a function of t."""
    x = np.cos(np.pi * np.arange(n + 1) / n)
    c = np.r_[2, np.ones(n - 1), 2] * (-1.0) ** np.arange(n + 1)
    D = np.outer(c, 1 / c) / (x[:, None] - x[None, :] + np.eye(n + 1))
    D -= np.diag(D.sum(1))
    second, start = (D @ D)[1:-1], x**2 * np.cos(np.pi * x)

    def rate(_: float, v: np.ndarray) -> np.ndarray:
        u = np.r_[-1.0, v, -1.0]
        return d * (second @ u) + 5 * (v - v**3)

    def slope(_: float, v: np.ndarray) -> np.ndarray:
        return d * second[:, 1:-1] + np.diag(5 - 15 * v**2)

    options = {"method": "Radau", "jac": slope, "rtol": 1e-9, "atol": 1e-10, "dense_output": True}
    return x, scipy.integrate.solve_ivp(rate, (0, 1), start[1:-1], **options).sol


def allen_cahn_exact(d: float, points: np.ndarray) -> np.ndarray:
    nodes, path = allen_cahn_path(d)
    found = np.empty(len(points))
    for t in np.unique(points[:, 1]):
        at = points[:, 1] == t
        values = np.r_[-1.0, path(t), -1.0]
        found[at] = scipy.interpolate.BarycentricInterpolator(nodes, values)(points[at, 0])
    return found[:, None]


def helmholtz(c: float, width: int | None = None, n: float = 2.0) -> tuple[Any, Any]:
    """Published with c = 1. The medium's wave number is c times that of the source."""
    k0 = 2 * np.pi * n

    def pde(x, y):
        dy_xx = dde.grad.hessian(y, x, i=0, j=0)
        dy_yy = dde.grad.hessian(y, x, i=1, j=1)
        f = k0**2 * torch.sin(k0 * x[:, 0:1]) * torch.sin(k0 * x[:, 1:2])
        return -dy_xx - dy_yy - (c * k0) ** 2 * y - f

    def transform(x, y):
        return x[:, 0:1] * (1 - x[:, 0:1]) * x[:, 1:2] * (1 - x[:, 1:2]) * y

    geom, train, test = dde.geometry.Rectangle([0, 0], [1, 1]), int(10 * n), int(30 * n)
    exact = lambda x: helmholtz_exact(c, x, n)  # noqa: E731
    sizes = {"num_domain": train**2, "num_boundary": 4 * train, "num_test": test**2}
    data = dde.data.PDE(geom, pde, [], solution=exact, **sizes)
    net = dde.nn.FNN([2] + [width or 150] * 3 + [1], "sin", "Glorot uniform")
    net.apply_output_transform(transform)
    return data, net


def helmholtz_exact(c: float, x: np.ndarray, n: float = 2.0) -> np.ndarray:
    return np.sin(2 * np.pi * n * x[:, 0:1]) * np.sin(2 * np.pi * n * x[:, 1:2]) / (2 - c**2)


def poisson_lshape(k: float, width: int | None = None) -> tuple[Any, Any]:
    def pde(x, y):
        dy_xx = dde.grad.hessian(y, x, i=0, j=0)
        dy_yy = dde.grad.hessian(y, x, i=1, j=1)
        return -dy_xx - dy_yy + k * y - 1

    geom = dde.geometry.Polygon([list(corner) for corner in CORNERS])
    bc = dde.icbc.DirichletBC(geom, lambda x: 0, lambda _, on_boundary: on_boundary)
    data = dde.data.PDE(geom, pde, bc, num_domain=1200, num_boundary=120, num_test=1500)
    return data, dde.nn.FNN([2] + [width or 50] * 4 + [1], "tanh", "Glorot uniform")


def poisson_lshape_exact(k: float, x: np.ndarray) -> np.ndarray:
    return PoissonLShape(k=k).reference_values(torch.from_numpy(x))


EXAMPLES = {
    "burgers": Example(burgers, 0.01 / math.pi, 0.02 / math.pi, burgers_exact, adam=15_000, lbfgs=True),
    "allen_cahn": Example(allen_cahn, 1e-3, 2e-3, allen_cahn_exact, adam=40_000, lbfgs=True),
    "helmholtz": Example(helmholtz, 1.0, 0.7, helmholtz_exact, adam=5_000, lbfgs=False),
    "poisson_lshape": Example(poisson_lshape, 0.0, 5.0, poisson_lshape_exact, adam=50_000, lbfgs=True),
}


def error(example: Example, coefficient: float, solution: pl.Solution) -> float:
    """Relative L2 on a regular grid of the domain."""
    points = solution.problem.domain.grid(101)[1].numpy()
    expected = example.exact(coefficient, points)
    return float(np.linalg.norm(solution.predict(points) - expected) / np.linalg.norm(expected))


def train(example: Example, model: Any, share: float) -> None:
    """As published: Adam, then L-BFGS where there is one."""
    model.compile("adam", lr=1e-3, loss_weights=example.loss_weights, verbose=0)
    model.train(iterations=max(1, int(share * example.adam)), verbose=0, display_every=10**6)
    if example.lbfgs:
        most = max(10, int(share * 15_000))
        dde.optimizers.set_LBFGS_options(maxiter=most)
        dde.optimizers.config.LBFGS_options["iter_per_step"] = min(1000, most)  # which maxiter alone leaves at 1,000
        model.compile("L-BFGS", loss_weights=example.loss_weights, verbose=0)
        model.train(verbose=0, display_every=10**6)


def run(name: str, share: float, width: int | None) -> dict[str, Any]:
    example, rows = EXAMPLES[name], {}
    torch.manual_seed(0)
    np.random.seed(0)
    start = seconds(CPU)
    model = dde.Model(*example.make(example.base, width))
    train(example, model, share)
    rows["deepxde"] = error(example, example.base, base := pl.from_deepxde(model.data, model)), seconds(CPU) - start
    other = example.make(example.other, width)[0]
    target = pl.from_deepxde(other)
    rows["zero-shot"] = error(example, example.other, pl.Solution(target, base.network)), 0.0
    start = seconds(CPU)
    tuned = pl.finetune(base, target, rank=example.rank)
    rows["finetune odelora-implicit"] = error(example, example.other, tuned), seconds(CPU) - start
    for method, steps in (("lora-adam", 10_000), ("lora-lbfgs", 5_000)):
        start, adapted = seconds(CPU), dde.Model(other, copy.deepcopy(model.net))
        pl.adapt_model(adapted, rank=example.rank)
        steps = max(10, int(share * steps))
        adapted.compile(pl.FactorOptimizer(adapted.net, method, max_steps=steps), verbose=0)
        adapted.train(iterations=steps, verbose=0, display_every=10**6)
        rows[f"adapt_model {method}"] = (
            error(example, example.other, pl.from_deepxde(other, adapted)),
            seconds(CPU) - start,
        )
    for way, (found, taken) in rows.items():
        print(f"{name:<15} {way:<28} {found:.2e}  {taken:8.1f} s", flush=True)
    return {"name": name, "base": example.base, "other": example.other, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description="DeepXDE's published examples, adapted.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the published numbers of iterations")
    parser.add_argument("--width", type=int, help="of the networks, where not the published one")
    parser.add_argument("--only", choices=list(EXAMPLES), action="append")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/deepxde_examples.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dde.config.set_default_float("float64")
    about = {"share": arguments.share, "width": arguments.width, "threads": arguments.threads}
    about |= {"machine": {**machine(), **versions()}}
    out: Path = arguments.out
    record = json.loads(out.read_text()) if out.is_file() else {**about, "examples": []}
    if any(record.get(key) != value for key, value in about.items()):
        parser.error(f"{out} holds examples of another length, machine or version; choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    done = {example["name"] for example in record["examples"]}
    for name in arguments.only or EXAMPLES:
        if name not in done:
            record["examples"].append(run(name, arguments.share, arguments.width))
            write_atomically(out, json.dumps(record, indent=1) + "\n")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
