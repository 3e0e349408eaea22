"""The check of a problem: what is ready has no finding, and what was broken on purpose is found and said in plain words."""

import dataclasses
import math
import re
import sys
from pathlib import Path

import pytest
from heat import HEAT, heat, wrong

import pinn_lora as pl
import pinn_lora.problems
from pinn_lora import catalog
from pinn_lora.checks.findings import Finding, Verdict, report_lines
from pinn_lora.checks.misfit import Reference
from pinn_lora.checks.problem import TOLERANCE, check_problem
from pinn_lora.checks.reference import check_reference
from pinn_lora.checks.runs import run_of
from pinn_lora.cli import main
from pinn_lora.fields import components
from pinn_lora.problem import Problem

ALL = sorted(catalog.names(pinn_lora.problems))


def test_a_sound_problem_has_every_finding_ok(tmp_path):
    found = check_problem(heat(tmp_path)())
    assert {finding.verdict for finding in found} == {Verdict.OK}
    names = [finding.what for finding in found]
    assert {"class", "domain", "sampling", "derivatives", "ansatz", "reference"} <= set(names)
    for term in ("residual", "initial", "dirichlet", "neumann", "robin"):
        assert names.count(term) == 2, "it runs, and the reference meets it"


@pytest.mark.parametrize("name", ALL)
def test_every_problem_of_the_folder_has_no_finding(name):
    cls = catalog.find(pinn_lora.problems, Problem, name)
    fields = {field.name for field in dataclasses.fields(cls)}
    for problem in [cls(), cls(form="soft")] if "form" in fields else [cls()]:
        found = check_problem(problem)
        assert {finding.verdict for finding in found} <= {Verdict.OK, Verdict.UNKNOWN}
        assert len(found) > 6
        for finding in found:
            if finding.number is not None:
                assert (finding.number > 1e-3) == (finding.verdict is Verdict.UNKNOWN), finding


@pytest.mark.parametrize("name", ALL)
def test_two_percent_too_much_are_never_called_ok(name):
    """Every equation of every problem with two hundredths of the size of its terms added."""
    problem = catalog.find(pinn_lora.problems, Problem, name)()
    run = run_of(problem, "residual", problem.residual, None)
    reference = Reference(problem)
    sizes = reference.sizes(run.sets[0], run.term.indices)
    added = [0.02 * found.scale(run.term.indices, sizes) for found in reference.misfits(run.term, run.sets)]

    def planted(p, *u):
        return tuple(r + c for r, c in zip(components(problem.residual(p, *u)), added, strict=True))

    broken = [run_of(problem, "residual", planted, None)]
    found = [f for f in check_reference(problem, broken, TOLERANCE) if f.what.startswith("residual")]
    assert len(found) == len(added)
    assert Verdict.OK not in {finding.verdict for finding in found}, found


BROKEN = {
    "sign": (
        "- self.D * u.xx",
        "+ self.D * u.xx",
        "residual",
        r"leaves .*it would fit with .*-1 times its terms in u\.xx",
    ),
    "coefficient": (
        "- self.D * u.xx",
        "- 1.01 * self.D * u.xx",
        "residual",
        r"fit with .*0\.9901 times its terms in u\.xx",
    ),
    "a term too many": ("u.t - self", "u.t + 0.01 * u - self", "residual", r"leaves 0\.0.*allowed 1e-04"),
    "another initial": (
        "pl.cos(math.pi * p.x)),",
        "1.3 * pl.cos(math.pi * p.x)),",
        "initial",
        r"misses it by 0\.3 at x = 0.*, t = 0 ",
    ),
    "condition at another value": ("lambda p: 0.0", "lambda p: 0.25", "neumann", r"misses it by 0\.25 at x = 1, t = "),
    "condition on the other side": (
        'side="lower"',
        'side="upper"',
        "dirichlet",
        r"misses it by (2|1\.[5-9]).* at x = 1, t = ",
    ),
    "coefficient of a condition": (
        "robin(2.0, 0.5",
        "robin(2.02, 0.5",
        "robin",
        r"misses it by 0\.0\d+ at x = 1, t = ",
    ),
    "reference of another D": (
        "pl.exp(-self.D * math.pi**2 * p.t) * ",
        "pl.exp(-0.2 * math.pi**2 * p.t) * ",
        "residual",
        r"fit with .*2 times its terms in u\.xx$",
    ),
    "reference nan": (
        "* pl.cos(math.pi * p.x)\n",
        "* pl.cos(math.pi * p.x) * torch.log(p.t) / torch.log(p.t)\n",
        "reference",
        r"DEF: the reference of Heat is not finite at \d+ of 1681 points, the first at x = 0, t = 0$",
    ),
    "reference of another shape": (
        "* pl.cos(math.pi * p.x)\n",
        "* pl.cos(math.pi * p.x)[:, None]\n",
        "reference",
        r"DEF: the reference of Heat has shapes \[\(1681, 1681\)\], not \[\(1681,\)\]$",
    ),
    "reference that raises": (
        "* pl.cos(math.pi * p.x)\n",
        "* pl.cos(math.pi * p.y)\n",
        "reference",
        r"LINE: Heat: there is no coordinate 'y' \(coordinates: x, t\)$",
    ),
    "wrong shape": (
        "u.t - self.D * u.xx",
        "(u.t - self.D * u.xx)[:, None]",
        "residual",
        r"DEF: Heat: a residual of 48 points must have shape \(48,\), not \(48, 1\)$",
    ),
    "a sum": ("u.t - self.D * u.xx", "(u.t - self.D * u.xx).sum()", "residual", r"DEF: .*not \(\)$"),
    "unknown derivative": ("u.xx", "u.yy", "residual", r"LINE: Heat: 'yy' names no derivative \(coordinates: x, t\)$"),
    "unknown coordinate": ("lambda p: 0.0", "lambda p: p.y", "neumann", r"LINE: Heat: there is no coordinate 'y'"),
    "unknown face": (
        '0.0, on="x"',
        '0.0, on="z"',
        "neumann",
        r"LINE: there is no coordinate 'z' \(coordinates: x, t\)$",
    ),
    "wrong shape of a value": ("lambda p: 0.0", "lambda p: p.x[:, None]", "neumann", r"LINE: Heat: .*not \(24, 24\)$"),
    "an error of Python's": (
        "u.t - self.D",
        "u.t - self.E",
        "residual",
        r"LINE: Heat: 'Heat' object has no attribute 'E'$",
    ),
    "not finite": (
        "u.t - self.D * u.xx",
        "u.t - torch.log(p.x - 2.0) * u.xx",
        "residual",
        r"DEF: it is not finite for a smooth u, at x = ",
    ),
    "unknown left out": ("u.t - self.D * u.xx", "p.x - p.t", "residual", r"DEF: it does not depend on the unknown$"),
    "data outside": (
        "pl.neumann(lambda p: 0.0",
        "pl.data([[0.5, 0.5], [1.5, 0.0]], [0.0, 0.0]), pl.neumann(lambda p: 0.0",
        "data",
        r"LINE: data: 1 of 2 points lie outside of the domain, the first at x = 1\.5, t = 0$",
    ),
    "data that is wrong": (
        "pl.neumann(lambda p: 0.0",
        "pl.data([[0.0, 0.0], [1.0, 0.0]], [1.0, 1.0]), pl.neumann(lambda p: 0.0",
        "data",
        r"LINE: the reference misses it by 2 at x = 1, t = 0",
    ),
    "called periodic": (
        "    domain =",
        '    periodic = ("x",)\n    domain =',
        "periodic x 1",
        r"misses it by [12]\.?\d* at x = 0, t = ",
    ),
    "periodic in nothing": (
        "    domain =",
        '    periodic = ("y",)\n    domain =',
        "periodic",
        r"LINE: Heat: periodic names 'y', which is no coordinate",
    ),
    "periodic as a text": (
        "    domain =",
        '    periodic = "x"\n    domain =',
        "periodic",
        r"LINE: Heat: periodic is 'x'; name coordinates in a tuple, periodic = ",
    ),
    "cut off": (
        "self.D * u.xx",
        "self.D * u.xx.detach()",
        "residual",
        r"DEF: its gradient is off by 0\.\d of its size .*: something is cut off, by \.detach\(\)",
    ),
    "cut off by numpy": (
        "self.D * u.xx",
        "self.D * torch.from_numpy(np.asarray(u.xx.detach()))",
        "residual",
        r"DEF: its gradient is off by",
    ),
    "single precision": (
        "u.t - self.D * u.xx",
        "(u.t - self.D * u.xx).float()",
        "residual",
        r"DEF: it is float32 where its points are float64",
    ),
    "a reference of complex numbers": (
        "* pl.cos(math.pi * p.x)\n",
        "* pl.cos(math.pi * p.x) + 0.5j\n",
        "reference",
        r"DEF: Heat: the reference is complex; give its real and imaginary part as two fields$",
    ),
    "a reference of nothing": (
        "* pl.cos(math.pi * p.x)\n",
        "* 0.0 * p.x\n",
        "reference",
        r"DEF: it is 0 at all of 1,681 points: no relative error can be taken$",
    ),
    "no dataclass": (
        "@dataclass(frozen=True)\n",
        "",
        "class",
        "line 11: Heat is no frozen dataclass: write @dataclass",
    ),
    "not frozen": ("(frozen=True)", "", "class", "line 11: Heat is no frozen dataclass: write @dataclass"),
    "no domain": (
        "    domain = pl.Domain(x=(0.0, 1.0), t=(0.0, 1.0))\n",
        "",
        "domain",
        "line 11: Heat: domain is missing: Heat has no domain; write domain = ",
    ),
    "a hidden coordinate": (
        "t=(0.0, 1.0))",
        "t=(0.0, 1.0), d=(0.0, 1.0))",
        "domain",
        "the coordinate 'd' is hidden by a method",
    ),
    "ansatz without jets": (
        "return n\n",
        "return torch.where(p.x > 0.5, n, -n)\n",
        "residual",
        r"LINE: Heat: TypeError: ",
    ),
    "ansatz with a constant": (
        "return n\n",
        "return n * (p.x.data[0] if hasattr(p.x, 'indices') else p.x)\n",
        "derivatives",
        r"DEF: jets and torch\.func agree to \de\S+ only: something in the ansatz or in a residual is not differentiated$",
    ),
    "ansatz of another initial": (
        "return n\n",
        "return pl.sin(math.pi * p.x) + p.t * n\n",
        "ansatz",
        r"DEF: at t = 0 it gives a u that misses the reference by \d.* whatever the network says$",
    ),
    "fields and ansatz": (
        "return n\n",
        "return n, n\n",
        "residual",
        r"DEF: Heat: the fields are u, and the ansatz gives 2$",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_was_broken_is_found(name, tmp_path):
    old, new, what, sentence = BROKEN[name]
    found = wrong(heat(tmp_path, old, new)())
    before = HEAT[: HEAT.index(old)]
    sentence = sentence.replace("LINE", rf"heat\.py, line {before.count(chr(10)) + 1}")
    sentence = (
        sentence.replace("DEF", rf"heat\.py, line {before[: before.rindex('    def ')].count(chr(10)) + 1}")
        if "DEF" in sentence
        else sentence
    )
    assert what in [finding.what for finding in found], found
    told = [finding.sentence for finding in found if finding.what == what]
    assert any(re.search(sentence, text) for text in told), told
    assert all("\n" not in text and "Traceback" not in text for text in told)


def test_points_outside_of_the_domain_are_found():
    class Wide(pl.Domain):
        def sample(self, n, *, seed=0, design="sobol"):
            return 1.5 * super().sample(n, seed=seed, design=design)

    @dataclasses.dataclass(frozen=True)
    class Off(pl.Problem):
        domain = Wide(x=(0.0, 1.0), t=(0.0, 1.0))

        def residual(self, p, u):
            return u.t - u.xx

        def conditions(self):
            return [pl.initial(lambda p: 0.0)]

    found = {finding.what: finding.sentence for finding in wrong(Off())}
    assert re.match(
        r"2\d\d of 512 points that the domain gives lie outside of it, the first at [xt] = ", found["sampling"]
    )
    assert re.match(r"\d+ of 64 points are not on its faces: x = 1\.", found["initial"])


def test_without_a_reference_that_is_said_and_nothing_is_wrong(tmp_path):
    problem = heat(tmp_path, HEAT[HEAT.index("    def reference") :], "")()
    found = check_problem(problem)
    assert {finding.verdict for finding in found} == {Verdict.OK, Verdict.UNCHECKED}
    assert [finding.what for finding in found if finding.verdict is Verdict.UNCHECKED] == ["reference"]


@pytest.mark.parametrize("tolerance", [math.nan, math.inf, 0.0, -1.0])
def test_a_tolerance_that_allows_anything_or_nothing_is_refused(tmp_path, monkeypatch, capsys, tolerance):
    said = rf"tolerance is {tolerance}; it must be above 0 and finite$"
    with pytest.raises(ValueError, match=rf"^{said}"):
        check_problem(heat(tmp_path)(), tolerance=tolerance)
    code, out, err = command(monkeypatch, capsys, str(tmp_path / "heat.py"), "--tolerance", str(tolerance))
    assert (code, out) == (2, "") and re.fullmatch(rf"error: --{said}\n?", err)


def test_the_tolerance_is_the_measure(tmp_path):
    problem = heat(tmp_path, "lambda p: 0.0", "lambda p: 1e-3")()
    assert [finding.what for finding in wrong(problem)] == ["neumann"]
    assert not [finding for finding in check_problem(problem, tolerance=1e-3) if finding.verdict is Verdict.WRONG]


def test_lines_for_the_terminal():
    found = [
        Finding("class", Verdict.OK, "a frozen dataclass"),
        Finding("residual", Verdict.WRONG, "it is wrong", 0.5),
        Finding("initial", Verdict.UNKNOWN, "it is too rough", 0.1),
        Finding("reference", Verdict.UNCHECKED, "there is none"),
    ]
    assert report_lines(found) == [
        "  ok     class      a frozen dataclass",
        "  WRONG  residual   it is wrong",
        "  ?      initial    cannot tell: it is too rough",
        "  -      reference  there is none",
        "3 checks, 1 wrong, 1 cannot tell",
    ]


def command(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """What `pinn-lora check ...` ends with, prints, and says of a mistake."""
    monkeypatch.setattr(sys, "argv", ["pinn-lora", "check", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), *capsys.readouterr()


def test_the_exit_code_says_how_it_went(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("sound.py").write_text(HEAT)
    Path("broken.py").write_text(HEAT.replace("- self.D * u.xx", "+ self.D * u.xx"))
    code, out, err = command(monkeypatch, capsys, "sound.py", "--set", "D=0.1/pi")
    assert code == 0 and out.startswith(f"sound.py: Heat(D={0.1 / math.pi})\n") and not err
    assert out.rstrip().endswith("checks, none wrong")
    code, out, _ = command(monkeypatch, capsys, "broken.py")
    assert code == 1 and re.search(r"\n  WRONG  residual +broken\.py, line 16: the reference leaves 1 of the size", out)
    code, out, _ = command(monkeypatch, capsys, "wave", "--set", "c=3", "--set", "form=soft")
    assert code == 0 and out.startswith("wave: Wave(c=3, form='soft')\n")
    for arguments in (["none.py"], ["nothing"], ["sound.py", "--set", "E=1"], ["sound.py", "--set", "D"]):
        code, out, err = command(monkeypatch, capsys, *arguments)
        assert code == 2 and err.startswith("error: ") and len(err.strip().splitlines()) == 1 and not out
    assert {path.name for path in tmp_path.iterdir()} == {"sound.py", "broken.py"}, "nothing is written"
