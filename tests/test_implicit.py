"""benchmarks/implicit.py: what it reports of a step holds together, and its solvers find the same step."""

import pytest
from benchmark import load

implicit = load("implicit")


@pytest.mark.filterwarnings("ignore")  # deepxde's own, where it is imported
def test_a_row_says_what_a_step_takes_beside_its_floor_and_the_gradients():
    row = implicit.factor_step(2, 8, 2, 128, repeats=1)
    times = row["milliseconds"]
    assert row["unknowns"] == 2 * 8 * 2  # one hidden layer of 8 x 8 at rank 2
    assert row["floor"] > times["gradient"] + times["cholesky"] > 0
    assert row["ratio"] == pytest.approx(times["system"] / row["floor"])
    assert row["step over"] == {
        "floor": pytest.approx(times["step"] / row["floor"]),
        "gradient": pytest.approx(times["step"] / times["gradient"]),
        "deepxde": pytest.approx(times["step"] / times["deepxde"]),
    }


def test_the_solvers_of_all_weights_find_the_same_step(capsys):
    rows = implicit.all_weights(2, 6, 128, 1e2, ["cholesky", "kernel", "cg"])
    assert [row["solver"] for row in rows] == ["cholesky", "kernel", "cg"]
    for row in rows[1:]:
        assert row["predicted"] == pytest.approx(1.0, abs=1e-5)  # cg stops at a relative residual
        assert row["falls to"] == pytest.approx(rows[0]["falls to"], rel=1e-4)
    assert "cholesky" in capsys.readouterr().out
