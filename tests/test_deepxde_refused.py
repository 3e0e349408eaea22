"""What is no problem, network or model to take over from DeepXDE: one sentence each, with the user's file and line."""

import numpy as np
import pytest
import torch
from test_deepxde_in import burgers, dde, double, in_time, network, on_boundary  # noqa: F401

import pinn_lora as pl
from pinn_lora.dde.problem import from_deepxde


def compiled(loss="MSE", regularization=None):
    net = network(2, 1)
    net.regularizer = regularization  # as FNN(..., regularization=)
    model = dde.Model(burgers(), net)
    model.compile("adam", lr=1e-3, loss=loss, verbose=0)
    return model


@pytest.mark.parametrize("loss", ["MSE", "mse", "mean squared error", ["MSE", "mse", dde.losses.mean_squared_error]])
def test_the_mean_of_squares_is_taken_by_each_of_its_names(loss):
    model = compiled(loss)
    expected = model.outputs_losses_train(model.data.train_x, None, None)[1][1]  # of the boundary, at fixed points
    assert from_deepxde(model.data, model).residual_norms()["dirichlet"] ** 2 == pytest.approx(
        float(expected.detach()), rel=1e-10
    )


@pytest.mark.parametrize(
    "take", [lambda m: from_deepxde(m.data, m), pl.adapt_model], ids=["from_deepxde", "adapt_model"]
)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"loss": "MAE"},
            "compiled with the loss mean_absolute_error, .* compile it with loss='MSE', or give from_deepxde",
        ),
        ({"loss": ["MSE", "MSE", "mean l2 relative error"]}, "compiled with the loss mean_l2_relative_error"),
        ({"loss": lambda a, b: abs(a - b).max()}, "compiled with the loss <lambda>"),
        (
            {"regularization": ("l2", 0.01)},
            r"has regularization \('l2', 0.01\), which is not taken over; set model.net",
        ),
    ],
)
def test_another_loss_is_refused_and_its_network_taken(take, options, said):
    model = compiled(**options)
    with pytest.raises(ValueError, match=said) as caught:
        take(model)
    assert "\n" not in str(caught.value)
    assert from_deepxde(model.data, model.net).settings["weights"] == {}


def without_conditions():
    return dde.data.TimePDE(in_time(), burgers().pde, [], num_domain=10)


def batched():
    some = np.zeros((4, 2))
    bc = dde.icbc.PointSetBC(some, some[:, :1], batch_size=2)
    return dde.data.PDE(dde.geometry.Rectangle([0, 0], [1, 1]), lambda x, y: y, bc, num_domain=10)


def coupled():
    return dde.data.PDE(dde.geometry.Interval(0, 1), lambda x, y: y - y.mean(), [], num_domain=10)


def pointless():
    geometry = dde.geometry.Interval(0, 1)
    bc = dde.icbc.DirichletBC(geometry, lambda x: 0, on_boundary)
    return dde.data.PDE(geometry, lambda x, y: y, bc, num_domain=10)


def without_pde():
    some = np.zeros((4, 1))
    return dde.data.PDE(dde.geometry.Interval(0, 1), None, dde.icbc.PointSetBC(some, some), anchors=some)


def with_condition(bc):
    return dde.data.TimePDE(in_time(), burgers().pde, bc, num_domain=10, num_boundary=6, num_initial=6)


def function():
    return dde.data.Function(dde.geometry.Interval(0, 1), lambda x: x, 4, 4)


def initial(value=0.0, component=0):
    return with_condition(dde.icbc.IC(in_time(), lambda x: value * x[:, :1], on_boundary, component=component))


def returning(pde):
    return dde.data.PDE(dde.geometry.Interval(0, 1), pde, [], num_domain=10)


def solved(solution):
    return dde.data.PDE(dde.geometry.Interval(0, 1), lambda x, y: y, [], num_domain=10, solution=solution)


LINE = r"test_deepxde_refused\.py, line \d+: "


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: from_deepxde(burgers(), network(3, 1)),
            "^the network does not run on the data's points, which have 2 coordinates: RuntimeError: mat1 and mat2",
        ),
        (
            lambda: from_deepxde(initial(component=3), network(2, 1)),
            LINE + "the condition initial: a column beyond the 1 outputs is asked for",
        ),
        (
            lambda: from_deepxde(
                with_condition(dde.icbc.NeumannBC(in_time(), lambda x: 0, on_boundary, component=3)), network(2, 1)
            ),
            LINE + "the condition neumann: i=3 is not valid",
        ),
        (
            lambda: from_deepxde(
                with_condition(dde.icbc.PointSetBC(np.zeros((3, 2)), 0, component=[0, 3])), network(2, 1)
            ),
            "^the condition pointset: IndexError: index 3 is out of bounds",
        ),
        (
            lambda: from_deepxde(initial(np.nan), network(2, 1)),
            LINE + "the condition initial: 6 of its values at 6 points are not finite",
        ),
        (
            lambda: from_deepxde(with_condition(dde.icbc.PointSetBC(np.zeros((3, 2)), np.full((3, 1), np.inf)))),
            "^the condition pointset: 3 of its values at 3 points are not finite",
        ),
        (
            lambda: from_deepxde(returning(lambda x, y: y.sum()), network(1, 1)).residual_norms(),
            LINE + "DeepXDEProblem: a tensor without rows is returned where a tensor with a row for each point is due",
        ),
        (lambda: from_deepxde(returning(lambda x, y: [y, 0.0])), LINE + "DeepXDEProblem: a float is returned where"),
        (
            lambda: from_deepxde(solved(lambda x: np.where(x < 0.5, np.nan, x)), network(1, 1)).relative_l2(),
            LINE + r"DeepXDEProblem: solution is not finite at \d+ of \d+ points, the first at x = 0",
        ),
        (lambda: from_deepxde(3), "from_deepxde takes a deepxde.data.PDE or TimePDE, and this is int"),
        (
            lambda: from_deepxde(function(), network(1, 1)),
            "from_deepxde takes a deepxde.data.PDE or TimePDE, and this is Function",
        ),
        (
            lambda: pl.adapt_model(dde.Model(function(), network(1, 1))),
            "from_deepxde takes a deepxde.data.PDE or TimePDE, and this is Function",
        ),
        (lambda: pl.adapt_model(network(1, 1)), "adapt_model takes a deepxde.Model, and this is FNN; pl.adapt takes a"),
        (lambda: from_deepxde(burgers(), torch.nn.Identity()), "^the network Identity has no parameters; give one"),
        (lambda: from_deepxde(burgers(), outputs=0), "^outputs is 0; it must be a whole number, at least 1"),
        (lambda: from_deepxde(burgers(), coefficients=0.1), "^coefficients is 0.1; give them by name"),
        (
            lambda: from_deepxde(batched()),
            "PointSetBC draws a batch of its points at every iteration; leave batch_size out",
        ),
        (lambda: from_deepxde(pointless()), "the condition dirichlet has no points; give data num_boundary"),
        (lambda: from_deepxde(without_pde()), "this data has no pde"),
        (lambda: from_deepxde(coupled()), "test_deepxde_refused.py, line .*depends on the fields at other points"),
        (
            lambda: from_deepxde(burgers(), network(2, 1).float()),
            r"test_deepxde_in\.py, line \d+: the network is float32 and the data's points are float64; make both after",
        ),
        (
            lambda: pl.adapt_model(dde.Model(burgers(), network(2, 1).float())),
            "the network is float32 and the data's points are float64",
        ),
        (lambda: from_deepxde(burgers(), 5), "net is a int; give a torch network or a deepxde.Model"),
        (lambda: type(from_deepxde(without_conditions()))(), r"give pl.from_deepxde\(data\) as the problem"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(call, said):
    with pytest.raises(ValueError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_forward_mode_is_refused():
    data = burgers()
    dde.config.set_default_autodiff("forward")
    try:
        with pytest.raises(ValueError, match="DeepXDE is set to forward-mode derivatives; set it back to reverse mode"):
            from_deepxde(data)
    finally:
        dde.config.set_default_autodiff("reverse")
