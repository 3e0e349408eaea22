"""Domains from DeepXDE's geometries: points fall inside and on the boundary, and a seed fixes them."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import pinn_lora as pl
from pinn_lora.dde.geometry import GeometryDomain
from pinn_lora.dde.load import load_deepxde, without_warnings

dde = load_deepxde()
SHAPE = [[0, 0], [1, 0], [1, -1], [-1, -1], [-1, 1], [0, 1]]


def lshape(**options) -> GeometryDomain:
    return GeometryDomain(dde.geometry.Polygon(SHAPE), **options)


def holed() -> GeometryDomain:
    return GeometryDomain(dde.geometry.Rectangle([-1, -1], [1, 1]) - dde.geometry.Disk([0, 0], 0.5))


def disk_in_time() -> GeometryDomain:
    geometry = dde.geometry.GeometryXTime(dde.geometry.Disk([0, 0], 0.7), dde.geometry.TimeDomain(1, 3))
    return GeometryDomain(geometry)


def in_lshape(p):
    return ((p.abs() <= 1).all(1)) & ~((p > 0).all(1))


def in_holed(p):
    return ((p.abs() <= 1).all(1)) & (p.norm(dim=1) > 0.5)


def in_disk_in_time(p):
    return (p[:, :2].norm(dim=1) <= 0.7) & (p[:, 2] >= 1) & (p[:, 2] <= 3)


CASES = [  # domain, who is inside, area over that of the bounding box
    (lshape, in_lshape, 0.75),
    (holed, in_holed, 1 - math.pi / 16),
    (disk_in_time, in_disk_in_time, math.pi / 4),
]


@pytest.mark.parametrize(("make", "inside", "share"), CASES)
@pytest.mark.parametrize("design", ["sobol", "latin_hypercube", "uniform"])
def test_exactly_n_points_all_inside_and_evenly_spread(make, inside, share, design):
    """The share of points in the left half is that of its area, to five standard errors of 2,000 random ones."""
    domain = make()
    points = domain.sample(2000, seed=4, design=design)
    assert points.shape == (2000, domain.dimension) and points.dtype == torch.float64
    assert inside(points).all()
    left = {0.75: 2 / 3}.get(share, 0.5)
    assert abs(float((points[:, 0] < 0).double().mean()) - left) < 5 * math.sqrt(0.25 / 2000)
    assert torch.equal(points, make().sample(2000, seed=4, design=design))
    assert not torch.equal(points, domain.sample(2000, seed=5, design=design))
    assert domain.sample(1).shape == (1, domain.dimension)


@pytest.mark.parametrize(("make", "inside", "share"), CASES)
def test_contains_and_grid_agree_with_the_shape(make, inside, share):
    """Away from the boundary, up to which its tolerance reaches; the grid holds the domain's share of all its points."""
    domain = make()
    box = pl.Domain(**{n: (1.1 * a, 1.1 * b) for n, a, b in zip(domain.names, domain.lower, domain.upper, strict=True)})
    points = box.sample(3000, seed=1)
    near = torch.stack([inside(points + torch.tensor(s) * 0.01) for s in (1.0, -1.0)])
    clear = near.all(0) | ~near.any(0)
    found = domain.contains(points)
    assert torch.equal(found[clear], inside(points)[clear]) and 500 < int(found.sum()) < 2900
    axes, grid = domain.grid(41)
    assert abs(len(grid) / 41**domain.dimension - share) < 0.05
    values = grid[:, 0].numpy()
    image = domain.image(axes, values)
    assert image.shape == (41,) * domain.dimension
    assert np.array_equal(image[np.isfinite(image)], values) and np.isnan(image).any()


def slanted():
    return dde.geometry.Triangle([0, 0], [2, 0.3], [0.7, 1.1])


TRIANGLES = {
    "alone": slanted,
    "a part": lambda: slanted() - dde.geometry.Disk([0.9, 0.45], 0.1),
    "in time": lambda: dde.geometry.GeometryXTime(slanted(), dde.geometry.TimeDomain(0, 1)),
}


@pytest.mark.parametrize("make", TRIANGLES.values(), ids=TRIANGLES)
def test_a_triangle_contains_its_boundary(make):
    """Its corners are rounded to float32, DeepXDE's default; points further off than its tolerance are outside still."""
    domain = GeometryDomain(make())
    points = domain.sample_boundary(500, seed=1)
    assert domain.contains(points).all()
    on_first = (points[:, 1] - 0.15 * points[:, 0]).abs() < 1e-6
    points[:, 1] -= 0.01
    assert int(on_first.sum()) > 50 and not domain.contains(points[on_first]).any()


def test_a_side_of_a_triangle_along_an_axis_is_a_face():
    triangle = GeometryDomain(dde.geometry.Triangle([0.1, 0.1], [1.4, 0.1], [0.3, 1.1]))
    assert (triangle.sample_face(50, coordinate="y", side="lower")[:, 1] == 0.1).all()


def test_boundary_points_lie_on_the_boundary():
    on_l = lshape().sample_boundary(300, seed=2)
    x, y = on_l.T
    outer = torch.isclose(on_l.abs().max(1).values, torch.tensor(1.0).double())
    notch = ((x.abs() < 1e-12) & (y >= 0)) | ((y.abs() < 1e-12) & (x >= 0))
    assert on_l.shape == (300, 2) and (outer | notch).all() and 40 < int(notch.sum()) < 110
    radius = holed().sample_boundary(200, seed=2).norm(dim=1)
    assert ((radius - 0.5).abs() < 1e-12).sum() > 20  # double precision, though DeepXDE's floats are single
    in_time = disk_in_time().sample_boundary(200, seed=2)
    assert (in_time[:, :2].norm(dim=1) - 0.7).abs().max() < 1e-12
    assert in_time[:, 2].min() < 1.05 and in_time[:, 2].max() > 2.95
    assert abs(float(torch.corrcoef(in_time[:, [0, 2]].T)[0, 1])) < 0.25  # place and instant are independent
    assert torch.equal(in_time, disk_in_time().sample_boundary(200, seed=2))
    with pytest.raises(ValueError, match="0 points were asked for"):
        lshape().sample_boundary(0)


def test_faces_are_those_of_the_bounding_box_where_it_has_them():
    start = disk_in_time().sample_face(50, coordinate="t", side="lower")
    assert (start[:, 2] == 1).all() and (start[:, :2].norm(dim=1) <= 0.7).all()
    right = lshape().sample_face(50, coordinate="x", side="upper")
    assert (right[:, 0] == 1).all() and (right[:, 1] <= 1e-4).all()
    box = GeometryDomain(dde.geometry.GeometryXTime(dde.geometry.Interval(-1, 2), dde.geometry.TimeDomain(0, 1)))
    left, right = (box.sample_face(20, coordinate="x", side=side, seed=3) for side in ("lower", "upper"))
    assert torch.equal(left[:, 1], right[:, 1]) and (left[:, 0] == -1).all() and (right[:, 0] == 2).all()
    with pytest.raises(ValueError, match=r"hardly any point of the face x = lower .* take on='boundary'"):
        disk_in_time().sample_face(50, coordinate="x", side="lower")
    with pytest.raises(ValueError, match=r"no coordinate 'z' \(coordinates: x, y, t\)"):
        disk_in_time().sample_face(5, coordinate="z", side="lower")


def test_names_and_bounds():
    assert lshape().names == ("x", "y") and lshape(names=("r", "s")).names == ("r", "s")
    assert repr(disk_in_time()) == "Disk(x=(-0.7, 0.7), y=(-0.7, 0.7), t=(1, 3))"
    assert GeometryDomain(dde.geometry.TimeDomain(0, 2)).names == ("t",)
    assert GeometryDomain(dde.geometry.Hypercube([0] * 4, [1] * 4)).names == ("x1", "x2", "x3", "x4")
    with pytest.raises(ValueError, match=r"Polygon has 2 coordinates, and the names are \('x',\)"):
        lshape(names=("x",))
    with pytest.raises(ValueError, match=r"3 is no domain; give a pinn_lora\.Domain or a geometry of DeepXDE"):
        GeometryDomain(3)


def test_a_cloud_gives_its_own_points():
    rng = np.random.default_rng(0)
    inner, outer = rng.random((30, 2)), np.array([[0.0, 0.5], [1.0, 0.5]])
    domain = GeometryDomain(dde.geometry.PointCloud(inner, boundary_points=outer))
    given = {tuple(p) for p in inner.astype(np.float32).astype(float).tolist()}
    points = domain.sample(70, seed=1)
    assert {tuple(p) for p in points.tolist()} == given and torch.equal(points, domain.sample(70, seed=1))
    assert len({tuple(p) for p in domain.sample(20).tolist()}) == 20
    assert {tuple(p) for p in domain.sample_boundary(4).tolist()} == {(0.0, 0.5), (1.0, 0.5)}
    assert len(domain.grid(5)[1]) == 30


def test_sampling_touches_no_global_random_state():
    np.random.seed(1)
    torch.manual_seed(1)
    expected = np.random.random(), torch.rand(1).item()
    np.random.seed(1)
    torch.manual_seed(1)
    domain = disk_in_time()
    domain.sample(50)
    domain.sample_boundary(50)
    domain.sample_face(9, coordinate="t", side="lower")
    assert (np.random.random(), torch.rand(1).item()) == expected


@dataclass(frozen=True)
class OnADisk(pl.Problem):
    """-(u_xx + u_yy) = 4 on the unit disk, u = 0 on its right half circle and 0 on the left: u = 1 - x^2 - y^2."""

    domain = dde.geometry.Disk([0, 0], 1)  # a geometry as it is

    def residual(self, p, u):
        return u.xx + u.yy + 4

    def conditions(self):
        right = pl.dirichlet(lambda p: 0.0, on="boundary", where=lambda p: p.x >= 0)
        return [right, pl.dirichlet(lambda p: 1 - p.x**2 - p.y**2, on="boundary", where=lambda p: p.x < 0)]

    def reference(self, p):
        return 1 - p.x**2 - p.y**2


def test_a_problem_takes_a_geometry_and_its_boundary():
    problem = OnADisk()
    assert problem.domain.names == ("x", "y")
    right, left = (c.sample(problem.domain, 40, seed=1)[0] for c in problem.conditions())
    assert len(right) == len(left) == 40 and (right[:, 0] >= 0).all() and (left[:, 0] < 0).all()
    assert right[:, 1].min() < -0.8 and right[:, 1].max() > 0.8
    assert torch.equal(right, problem.conditions()[0].sample(problem.domain, 40, seed=1)[0])


def test_a_problem_on_a_disk_is_solved():
    """A parabola: 30 Gauss-Newton steps come below 1e-2, against 1 for a network that knows nothing."""
    solved = pl.pretrain(OnADisk(), width=10, depth=2, max_steps=30, points=300)
    assert solved.relative_l2() < 1e-2


def test_the_boundary_of_a_box_is_all_its_faces_but_those_of_time():
    box = pl.Domain(x=(0.0, 1.0), y=(2.0, 3.0), t=(5.0, 6.0))
    points = box.sample_boundary(80, seed=1)
    on = torch.stack([points[:, i] == b[i] for i in (0, 1) for b in (box.lower, box.upper)])
    assert on.sum(1).tolist() == [20, 20, 20, 20]
    assert ((points[:, 2] > 5) & (points[:, 2] < 6)).all()
    with pytest.raises(ValueError, match="no boundary beside the ends of time; take on='t'"):
        pl.Domain(t=(0.0, 1.0)).sample_boundary(5)


def test_a_place_nowhere_on_the_boundary_is_refused():
    condition = pl.dirichlet(lambda p: 0.0, on="boundary", where=lambda p: p.x > 7)
    with pytest.raises(ValueError, match="dirichlet: where= is true at hardly any point of the boundary"):
        condition.sample(lshape(), 10, seed=0)


def test_a_domain_without_room_is_refused():
    needle = dde.geometry.Polygon([[0, 0], [1, 1], [0, 1e-5], [-1, -1]])
    with without_warnings(), pytest.raises(ValueError, match="hardly any lie inside"):
        GeometryDomain(needle).sample(10)


def test_plot_leaves_what_is_outside_blank(tmp_path):
    network = pl.MLP(OnADisk.domain, width=4, depth=1)
    assert pl.Solution(OnADisk(), network).plot(tmp_path / "u.png").read_bytes()[:4] == b"\x89PNG"


def ellipse(angle=0.0):
    return dde.geometry.Ellipse([1, 2], 2, 0.5, angle)


SQUARE = dde.geometry.Rectangle([0, 0], [4, 4])
BOXES = {  # the box of an ellipse that is turned by phi is (a^2 cos^2 + b^2 sin^2)^1/2 wide to either side
    "ellipse": (ellipse(), [-1, 1.5], [3, 2.5]),
    "turned": (
        ellipse(math.pi / 4),
        [1 - math.sqrt(2.125), 2 - math.sqrt(2.125)],
        [1 + math.sqrt(2.125), 2 + math.sqrt(2.125)],
    ),
    "union": (dde.geometry.Disk([1, 2], 1) | ellipse(), [-1, 1], [3, 3]),
    "intersection": (SQUARE & ellipse(), [0, 1.5], [3, 2.5]),
    "difference": (ellipse() - dde.geometry.Disk([1, 2], 0.1), [-1, 1.5], [3, 2.5]),
}


@pytest.mark.parametrize(("geometry", "lower", "upper"), BOXES.values(), ids=BOXES)
def test_no_part_of_an_ellipse_is_left_out(geometry, lower, upper):
    """DeepXDE's own box leaves some out. Tolerance: it keeps an ellipse's centre in single precision."""
    domain = GeometryDomain(geometry)
    assert np.allclose(domain.lower, lower, atol=1e-6) and np.allclose(domain.upper, upper, atol=1e-6)
    assert (
        domain.contains(domain.sample_boundary(200, seed=1)).double().mean() > 0.99
    )  # what touches the box may round out
    reached = domain.sample(2000)
    assert np.allclose(reached.amin(0), lower, atol=0.15) and np.allclose(reached.amax(0), upper, atol=0.15)
