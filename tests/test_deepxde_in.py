"""Problems and solutions from DeepXDE: their losses and gradients are those that DeepXDE itself takes."""

import gc
import weakref

import numpy as np
import pytest
import torch

import pinn_lora as pl
from pinn_lora.dde.load import load_deepxde, without_warnings
from pinn_lora.dde.problem import _kept, from_deepxde
from pinn_lora.lora import Blocks
from pinn_lora.points import first_points

dde = load_deepxde()


@pytest.fixture(autouse=True)
def double():
    """DeepXDE in double precision, and its cache empty, for one test."""
    dde.config.real.set_float64()
    yield
    dde.config.real.set_float32()
    dde.grad.clear()


def on_boundary(_, on):
    return on


def in_time(geometry=None):
    return dde.geometry.GeometryXTime(geometry or dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 0.99))


def burgers(nu=0.1):
    def pde(x, y):
        dy_x = dde.grad.jacobian(y, x, i=0, j=0)
        dy_t = dde.grad.jacobian(y, x, i=0, j=1)
        dy_xx = dde.grad.hessian(y, x, i=0, j=0)
        return dy_t + y * dy_x - nu * dy_xx

    geometry = in_time()
    bc = dde.icbc.DirichletBC(geometry, lambda x: 0, on_boundary)
    ic = dde.icbc.IC(geometry, lambda x: -np.sin(np.pi * x[:, 0:1]), on_boundary)
    return dde.data.TimePDE(geometry, pde, [bc, ic], num_domain=60, num_boundary=10, num_initial=12)


def with_every_condition():
    """Two unknowns, and conditions of every kind."""

    def pde(x, y):
        u, v = y[:, 0:1], y[:, 1:2]
        flux = dde.grad.jacobian(u * v, x, i=0, j=0)
        gradient = dde.grad.jacobian(y, x, i=1, j=None)
        return [dde.grad.jacobian(u, x, j=1) + flux - x[:, 0:1] * torch.exp(-v), gradient[:, 0:1] - u]

    def derivative(inputs, outputs, X):
        return dde.grad.jacobian(outputs, inputs, i=0, j=1) - torch.as_tensor(X[:, :1])

    g = in_time()
    some = np.random.default_rng(0).random((9, 2)) * 0.9
    conditions = [
        dde.icbc.DirichletBC(g, lambda x: np.cos(x[:, 1:2]), lambda x, on: on and x[0] < 0, component=1),
        dde.icbc.NeumannBC(g, lambda x: x[:, 1:2] ** 2, lambda x, on: on and x[0] > 0),
        dde.icbc.RobinBC(g, lambda x, y: y[:, :1] ** 2 + 1, on_boundary),
        dde.icbc.PeriodicBC(g, 0, lambda x, on: on and np.isclose(x[0], -1)),
        dde.icbc.PeriodicBC(g, 0, lambda x, on: on and np.isclose(x[0], -1), derivative_order=1, component=1),
        dde.icbc.OperatorBC(g, derivative, on_boundary),
        dde.icbc.PointSetBC(some, some[:, :1], component=1),
        dde.icbc.PointSetBC(some, some, component=[0, 1]),
        dde.icbc.PointSetOperatorBC(some, some[:, :1], lambda x, y, X: dde.grad.hessian(y, x, component=1, i=0, j=1)),
        dde.icbc.IC(g, lambda x: np.sin(x[:, 0:1]), on_boundary),
    ]
    return dde.data.TimePDE(g, pde, conditions, num_domain=40, num_boundary=16, num_initial=8)


def holed():
    """A square with a hole: the normal is the disk's there."""

    def pde(x, y):
        return -dde.grad.hessian(y, x, i=0, j=0) - dde.grad.hessian(y, x, i=1, j=1) - 4 * y - torch.sin(x[:, 0:1])

    outer, inner = dde.geometry.Rectangle([-1, -1], [1, 1]), dde.geometry.Disk([0, 0], 0.5)
    geometry = outer - inner
    bcs = [
        dde.icbc.NeumannBC(geometry, lambda x: x[:, :1], lambda x, on: on and inner.on_boundary(x)),
        dde.icbc.DirichletBC(geometry, lambda x: x[:, 1:], lambda x, on: on and outer.on_boundary(x)),
    ]
    return dde.data.PDE(geometry, pde, bcs, num_domain=50, num_boundary=40)


def polygon():
    def pde(x, y):
        return dde.grad.hessian(y, x, i=0, j=0) + dde.grad.hessian(y, x, i=1, j=1) + 1

    geometry = dde.geometry.Polygon([[0, 0], [1, 0], [1, -1], [-1, -1], [-1, 1], [0, 1]])
    bcs = [
        dde.icbc.NeumannBC(geometry, lambda x: 0, on_boundary),
        dde.icbc.DirichletBC(geometry, lambda x: 0, on_boundary),
    ]
    with without_warnings():
        return dde.data.PDE(geometry, pde, bcs, num_domain=40, num_boundary=40)


def with_auxiliary():
    def pde(x, y, source):
        return dde.grad.jacobian(y, x) - source

    data = dde.data.PDE(
        dde.geometry.TimeDomain(0, 1),
        pde,
        dde.icbc.IC(dde.geometry.TimeDomain(0, 1), lambda x: 1, on_boundary),
        num_domain=20,
        num_boundary=2,
        auxiliary_var_function=lambda x: np.cos(x),
    )
    return data


CASES = {  # data, its numbers of inputs and outputs, the names of its conditions
    "burgers": (burgers, 2, 1, ["dirichlet", "initial"]),
    "every condition": (
        with_every_condition,
        2,
        2,
        [
            *("dirichlet", "neumann", "robin", "periodic_1", "periodic_2", "operator", "pointset_1", "pointset_2"),
            *("pointsetoperator", "initial"),
        ],
    ),
    "holed": (holed, 2, 1, ["neumann", "dirichlet"]),
    "polygon": (polygon, 2, 1, ["neumann", "dirichlet"]),
    "auxiliary": (with_auxiliary, 1, 1, ["initial"]),
}


def network(inputs, outputs, *, transform=None, activation="tanh"):
    torch.manual_seed(3)
    net = dde.nn.FNN([inputs] + [7] * 2 + [outputs], activation, "Glorot normal")
    for linear in net.linears:
        torch.nn.init.normal_(linear.bias, std=0.3)
    if transform in ("features", "both"):
        net.apply_feature_transform(lambda x: torch.cat([x, torch.sin(x[:, :1])], dim=1)[:, : x.shape[1]])
    if transform in ("outputs", "both"):
        net.apply_output_transform(lambda x, y: y * torch.cos(x[:, 0:1]) + x[:, :1])
    return net


@pytest.mark.parametrize("transform", [None, "features", "outputs", "both"])
@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradient_are_deepxdes_own(name, transform):
    """At DeepXDE's own points: every loss, and the gradient of their weighted sum, to 1e-10; then J, by 2 J^T R = g."""
    make, inputs, outputs, names = CASES[name]
    data, net = make(), network(inputs, outputs, transform=transform)
    model = dde.Model(data, net)
    with without_warnings():
        model.compile("adam", lr=1e-3, verbose=0)
        data_in = data.train_x, data.train_y, data.train_aux_vars
        losses = model.outputs_losses_train(*data_in)[1]
    said = losses.detach().tolist()
    solution = from_deepxde(data, net)
    assert isinstance(solution.network, pl.MLP) == (transform is None)
    problem, terms = solution.problem, [n for n, _, _ in solution.problem.terms()]
    assert terms == ["residual", *names]
    residuals = len(losses) - len(names)
    weights = {n: 1.0 + i for i, n in enumerate(terms)}
    in_order = [weights["residual"]] * residuals + [weights[n] for n in names]
    assert problem.weights(in_order) == weights
    points = first_points(problem, 20, seed=0) | {"residual": (torch.from_numpy(data.train_x[sum(data.num_bcs) :]),)}
    objective = pl.Objective(problem, solution.network, Blocks(solution.network), points, weights)
    theta = objective.blocks.read(solution.network)
    found = objective.term_norms(theta)
    for n, loss in zip(names, said[residuals:], strict=True):
        columns = 2 if n == "pointset_2" else 1  # each divided by 2^1/2
        assert found[n] ** 2 * columns == pytest.approx(loss, rel=1e-10), n
    total = (losses * torch.tensor(in_order).double()).sum()
    f, g = objective.gradient(theta)
    assert f == pytest.approx(float(total.detach()), rel=1e-10)
    if transform:
        expected = torch.autograd.grad(total, list(net.parameters()))
        assert torch.allclose(g, torch.cat([e.reshape(-1) for e in expected]), rtol=1e-9, atol=1e-9 * float(g.norm()))
    R, J = objective.jacobian(theta)
    assert torch.allclose(2 * J.T @ R, g, rtol=1e-9, atol=1e-9 * float(g.norm()))
    if not transform:
        other = pl.Objective(problem, solution.network, objective.blocks, points, weights, engine="functional")
        assert torch.allclose(other.jacobian(theta)[1], J, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("activation", ["tanh", "sin", "relu"])
def test_predictions_and_type_are_the_models(dtype, activation):
    if dtype is torch.float32:
        dde.config.real.set_float32()
    net = network(2, 1, activation=activation).to(dtype)
    for linear in net.linears:
        assert linear.weight.dtype is dtype
    solution = from_deepxde(burgers(), dde.Model(burgers(), net))
    assert isinstance(solution.network, pl.MLP) == (activation != "relu")
    points = solution.problem.domain.sample(50).to(dtype)
    with torch.no_grad():
        expected = net(points)
    assert next(solution.network.parameters()).dtype is dtype
    tolerance = 1e-12 if dtype is torch.float64 else 1e-5
    assert torch.allclose(solution.predict(points), expected, rtol=0, atol=tolerance)


def test_the_users_network_and_data_are_left_alone():
    data, net = burgers(), network(2, 1, transform="both")
    held = {name: value.clone() for name, value in net.state_dict().items()}
    base = from_deepxde(data, net)
    tuned = pl.finetune(base, from_deepxde(burgers(nu=0.2)), rank=2, max_steps=2, points=60)
    assert tuned.history[-1].loss < tuned.history[0].loss
    assert all(torch.equal(value, held[name]) for name, value in net.state_dict().items())
    assert not dde.gradients.gradients_reverse.jacobian._Jacobians.Js  # no tensor is held by its cache
    assert torch.get_default_dtype() is torch.float32


def test_a_network_of_several_widths_or_a_parallel_one_runs_as_it_is():
    torch.manual_seed(0)
    for net in (
        dde.nn.FNN([2, 5, 6, 1], "tanh", "Glorot normal"),
        dde.nn.PFNN([2, [4, 4], [4, 4], 2], "tanh", "Glorot normal"),
        torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).double(),
    ):
        outputs = net(torch.zeros(1, 2).double()).shape[1]
        solution = from_deepxde(burgers() if outputs == 1 else with_every_condition(), net)
        assert type(solution.network) is type(net)
        assert all(np.isfinite(norm) for norm in solution.residual_norms().values())


def test_networks_side_by_side_take_factors_on_the_layers_between():
    """PFNN's outputs come of layers that are one unit thin each, which carry no factors."""
    torch.manual_seed(0)
    base = from_deepxde(with_every_condition(), dde.nn.PFNN([2, [5, 5], [4, 4], 2], "tanh", "Glorot normal"))
    tuned = pl.finetune(base, base.problem, rank=2, max_steps=1, points=20)
    factors = {name.rpartition(".")[0] for name, _ in tuned.network.named_parameters()}
    assert factors == {f"layers.1.{side}" for side in (0, 1)}


def test_a_family_of_named_coefficients_is_reached_in_their_order(tmp_path):
    """0.2 is nearer to 0.15 than to the base, 0.1; the folder and the table have the coefficient's name."""
    base = from_deepxde(burgers(), network(2, 1), coefficients={"nu": 0.1})
    members = [from_deepxde(burgers(nu), coefficients={"nu": nu}) for nu in (0.2, 0.15)]
    family = pl.solve_family(base, members, rank=2, max_steps=1, points=40, folder=tmp_path / "family")
    assert family.parents == (1, None)
    assert [row["nu"] for row in family.table()] == [0.2, 0.15]
    again = pl.Family.load(tmp_path / "family", base=base, problems=members)
    assert again.nearest(members[0]).problem is members[0]
    with pytest.raises(ValueError, match=r"made of its data alone; give pl\.from_deepxde\(data\) as the problem"):
        again.predict(0.19, np.zeros((1, 2)))
    assert repr(members[0]).startswith("DeepXDEProblem(nu=0.2, TimePDE on ")


@pytest.mark.parametrize("name", ["data", "fields", "residual", "not a name", "_nu"])
def test_a_coefficients_name_is_its_own(name):
    with pytest.raises(ValueError, match="a coefficient cannot be called"):
        from_deepxde(burgers(), coefficients={name: 1.0})


def test_outputs_are_counted_where_there_is_no_network():
    assert from_deepxde(burgers()).fields == ("y",)
    assert from_deepxde(with_every_condition()).fields == ("y1", "y2")
    assert from_deepxde(burgers(), outputs=3).fields == ("y1", "y2", "y3")


def test_the_datas_solution_is_the_reference(users_grid):
    data = holed()
    assert not from_deepxde(data).has_reference
    data.soln = lambda x: np.sin(x[:, :1]) + x[:, 1:]
    problem = from_deepxde(data)
    points = problem.domain.sample(30)
    assert np.allclose(problem.reference_values(points)[:, 0], data.soln(points.numpy())[:, 0], atol=1e-15)
    solution = from_deepxde(data, network(2, 1))
    grid = problem.domain.grid(161)[1].numpy()
    expected = np.linalg.norm(solution.predict(grid) - data.soln(grid)) / np.linalg.norm(data.soln(grid))
    assert solution.relative_l2() == pytest.approx(expected, rel=1e-12)


def test_targets_are_those_of_the_points_after_resampling():
    """DeepXDE keeps a condition's values by the id of its points, which new ones may get once those are gone: they stay as
    long as the condition does, and no longer."""
    data, taken = burgers(), []
    data.train_distribution = "pseudo"
    for seed in range(3):
        np.random.seed(seed)
        data.resample_train_points()
        problem = from_deepxde(data)
        initial = problem.conditions()[1]
        taken.append(initial.points[:, 0].numpy())
        zero = pl.Solution(problem, pl.MLP(problem.domain, width=3, depth=1))
        for parameter in zero.network.parameters():
            parameter.data.zero_()
        expected = np.sqrt(np.mean(np.sin(np.pi * taken[-1]) ** 2))
        assert zero.residual_norms()["initial"] == pytest.approx(expected, rel=1e-12)
        del problem, initial, zero
        gc.collect()
    held = _kept[data.bcs[1]]
    assert [np.allclose(X[:, 0], x, atol=1e-6) for X, x in zip(held, taken, strict=True)] == [True] * 3
    from_deepxde(data)
    assert len(held) == 3  # the same points again
    gone = weakref.ref(held[0])
    del held, data
    gc.collect()
    assert gone() is None


def test_loss_weights_of_a_model_come_along():
    data = burgers()
    model = dde.Model(data, network(2, 1))
    model.compile("adam", lr=1e-3, loss_weights=[1, 10, 100], verbose=0)
    assert from_deepxde(data, model).settings["weights"] == {"residual": 1.0, "dirichlet": 10.0, "initial": 100.0}
    with pytest.raises(ValueError, match=r"loss_weights=\[1, 2\] do not fit residual, dirichlet, initial"):
        from_deepxde(data).weights([1, 2])
    with pytest.raises(ValueError, match="multiply each by the root of its own in pde"):
        from_deepxde(data).weights([1, 2, 3, 4])


def test_a_base_and_an_adapter_come_back_from_disk(tmp_path):
    base = from_deepxde(burgers(), network(2, 1))
    target = from_deepxde(burgers(nu=0.2))
    tuned = pl.finetune(base, target, rank=2, max_steps=2, points=60)
    tuned.save(tmp_path / "tuned")
    again = pl.Solution.load(tmp_path / "tuned", base=base, problem=target)
    points = target.domain.sample(20)
    assert torch.equal(again.predict(points), tuned.predict(points))
    with pytest.raises(ValueError, match=r"give pl.from_deepxde\(data\) as the problem"):
        pl.Solution.load(tmp_path / "tuned", base=base)
