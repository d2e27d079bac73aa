"""Made-up reports of every kind, with the numbers that such networks really show."""

from __future__ import annotations

import math

import pytest

from gradvitals.vocabulary import Estimate, Finding, Report, Severity, Site, Table

ENVIRONMENT = {"gradvitals": "0.1.0", "python": "3.11.2", "torch": "2.13.0+cpu", "numpy": "2.4.6"}
LAYER_COLUMNS = (
    "path", "call", "kind", "shape", "forward_mean", "forward_std", "forward_rms", "zero_share", "dead_share",
    "saturated_share", "sample_cosine", "gradient_rms", "nonfinite",
)  # fmt: skip


def layers(name: str, *, gain: float, forward_gain: float, depth: int = 20, activation: str = "Sigmoid") -> Table:
    """A deep chain whose gradient changes by ``gain`` and whose signal by ``forward_gain`` per layer."""
    rows = []
    for at in range(depth):
        forward = 0.52 * forward_gain**at
        gradient = 3.1e-3 * gain ** (depth - 1 - at)
        rows.append(
            (f"{2 * at}", 0, "Linear", (256, 64), 0.01, forward, forward, 0.0, None, None, 0.91, gradient * 0.24, 0)
        )
        zeros = 0.5 if activation == "ReLU" else 0.0
        rows.append(
            (f"{2 * at + 1}", 0, activation, (256, 64), 0.5, 0.02, forward * 0.97, zeros, zeros / 10, 0.03 + at / 200,
             0.9 + at / 250, gradient, 0)
        )  # fmt: skip
    return Table(name, LAYER_COLUMNS, ("",) * len(LAYER_COLUMNS), tuple(rows))


def vanishing() -> Report:
    """Examine a 20-layer sigmoid network: the gradient is lost."""
    finding = Finding(
        "S203",
        Severity.ERROR,
        Site("0"),
        {
            "gain": Estimate(0.238, 0.004),
            "left": 1.17e-12,
            "layers": 20,
            "first": "0",
            "last": "38",
            "lost_at": "38",
        },
        confidence=0.95,
    )
    saturated = Finding("S206", Severity.WARNING, Site("39"), {"share": 0.53, "cut": 0.1})
    gains = Table(
        "gains",
        ("direction", "gain", "low", "high", "layers", "left", "first", "last"),
        ("",) * 8,
        (
            ("forward", 0.998, 0.99, 1.004, 20, 0.96, "0", "38"),
            ("backward", 0.238, 0.234, 0.242, 20, 1.17e-12, "0", "38"),
        ),
    )
    parameters = Table(
        "parameters",
        ("path", "weight_rms", "gradient_rms"),
        ("", "", ""),
        tuple((f"{2 * at}.weight", 0.0722, 0.004 * 0.238 ** (20 - at)) for at in range(20)),
    )
    return Report(
        "probe",
        "SigmoidNet",
        (saturated, finding),
        (gains, layers("layers", gain=0.238, forward_gain=0.998), parameters),
        {"seed": 0, "objective": "random"},
        ENVIRONMENT,
        {"seconds": 0.312, "forwards": 1, "backwards": 1},
    )


def wrong() -> Report:
    """Check a hand-written layer in which a factor is missing, and one tensor that can't be resolved."""
    findings = (
        Finding(
            "G104",
            Severity.UNRESOLVED,
            Site("scale"),
            {"tensors": ("scale",), "resolution": 3.2e-3, "sensitivity": 1e-4},
        ),
        Finding(
            "G101",
            Severity.ERROR,
            Site("W1", (14, 3)),
            {
                "tensors": ("W1", "b1"),
                "likely": "factor-missing",
                "numeric": Estimate(-0.74312, 2.1e-9),
                "analytic": -0.37156,
                "factor": Estimate(2.0, 5e-9),
                "name": "2",
                "shared": "dZ1",
                "relative_error": 0.333,
            },
        ),
    )  # fmt: skip
    tensors = Table(
        "tensors",
        ("path", "role", "shape", "dtype", "status", "relative_error", "resolution", "entry_resolution", "grade",
         "likely"),
        ("",) * 10,
        (
            ("W1", "parameter", (64, 32), "float64", "wrong", 0.3333333, 1.2e-10, 4.1e-8, "large", "factor-missing"),
            ("b1", "parameter", (32,), "float64", "wrong", 0.3333333, 2.2e-10, 4.4e-9, "large", "factor-missing"),
            ("W2", "parameter", (32, 10), "float64", "right", 4.1e-11, 1.9e-10, 3.1e-8, "exact", None),
            ("b2", "parameter", (10,), "float64", "right", 0.0, 3.0e-10, 2.2e-9, "exact", None),
            ("scale", "parameter", (), "float32", "unresolved", 2.0e-3, 3.2e-3, None, None, None),
            ("x", "input", (8, 64), "float32", "right", 3.4e-2, 5.0e-2, None, "large", None),
        ),
    )  # fmt: skip
    entries = Table(
        "entries",
        ("path", "index", "numeric", "error", "analytic"),
        ("",) * 5,
        (
            ("W1", (14, 3), -0.74312, 2.1e-9, -0.37156),
            ("W1", (0, 31), 0.0021, 1.9e-9, 0.00105),
            ("b1", (7,), 1.31, 3.0e-9, 0.655),
            ("b1", (2,), 1.2e-7, 3.0e-9, math.nan),
        ),
    )
    return Report(
        "check",
        "two_layer_net <b>",
        findings,
        (tensors, entries),
        {"seed": 0, "sensitivity": 1e-4, "objective": "loss", "wrt": ("W1", "b1", "W2", "b2", "scale", "x")},
        ENVIRONMENT,
        {"seconds": 12.7, "evaluations": 842},
    )


def treated() -> Report:
    """Start a sick network anew: layers before and after, and both trained."""
    plan = Table(
        "plan",
        ("path", "kind", "shape", "fan_in", "fan_out", "activation", "scheme", "std_before", "std_after", "bias",
         "reason"),
        ("",) * 11,
        tuple(
            (f"{2 * at}.weight", "Linear", (64, 64), 64, 64, "Sigmoid", "orthogonal", 0.0722, 0.5774, -1.9, "")
            for at in range(20)
        ),
    )  # fmt: skip
    steps = range(0, 310, 10)
    training = Table(
        "training",
        ("step", "loss_before", "loss_after", "accuracy_before", "accuracy_after"),
        ("", "", "", "%", "%"),
        tuple(
            (
                step,
                2.303 + 0.004 * math.sin(step),
                2.35 * math.exp(-step / 60) + 0.17,
                9.6 + 0.8 * math.cos(step / 17),
                93.7 - 84 * math.exp(-step / 48),
            )
            for step in steps
        ),
    )
    before = layers("before", gain=0.238, forward_gain=0.998)
    after = layers("after", gain=1.02, forward_gain=1.0)
    return Report(
        "init",
        "sigmoid, 20 layers",
        vanishing().findings,
        (plan, before, after, training),
        {"seed": 0, "method": "auto", "objective": "loss", "story": "vanishing"},
        {},
        {"seconds": 8.4},
    )


def exploded() -> Report:
    """Start a network anew whose signal overflowed: infinities and NaN in the tables."""
    before = layers("before", gain=6.2, forward_gain=6.2, activation="ReLU")
    last = before.columns.index("gradient_rms")
    rows = [list(row) for row in before.rows]
    rows[0][last], rows[1][last], rows[2][last], rows[5][last] = math.nan, math.inf, None, 0.0
    finding = Finding(
        "S202",
        Severity.ERROR,
        Site("38"),
        {"gain": Estimate(6.2, 0.3), "left": 7.0e15, "layers": 20, "first": "0", "last": "38"},
    )
    return Report(
        "init",
        "ReLU, 20 layers",
        (finding,),
        (
            Table("before", before.columns, before.units, tuple(tuple(row) for row in rows)),
            layers("after", gain=1.01, forward_gain=0.99, activation="ReLU"),
        ),
        {"story": "exploding", "seed": 0, "objective": "loss"},
        {},
        {"seconds": 7.9},
    )


def sound() -> Report:
    """Check something that is right."""
    tensors = Table(
        "tensors",
        ("path", "role", "shape", "dtype", "status", "relative_error", "resolution", "grade"),
        ("",) * 8,
        (("x", "input", (3,), "float64", "right", 2.1e-12, 1.0e-10, "exact"),),
    )
    return Report("check", "sin", (), (tensors,), {"seed": 0, "story": "sound"}, {}, {"seconds": 0.01})


def demo() -> Report:
    """Show four patients, each an examination of its own."""
    patients = Table(
        "patients",
        ("patient", "expected", "found", "accuracy_before", "accuracy_after"),
        ("", "", "", "%", "%"),
        (
            ("sigmoid, 20 layers", ("gradient-vanishing",), ("gradient-vanishing",), 9.6, 93.7),
            ("ReLU, 20 layers", ("signal-exploding",), ("signal-exploding", "gradient-exploding"), 10.1, 95.2),
            ("two_layer_net <b>", ("gradient-wrong",), ("gradient-wrong",), None, None),
            ("sin", (), (), None, None),
        ),
    )
    parts = (treated(), exploded(), wrong(), sound())
    return Report(
        "demo", "handwritten digits", (), (patients,), {"seed": 0}, ENVIRONMENT, {"seconds": 41.3}, parts=parts
    )


def strange() -> Report:
    """Hold keys, tables and values that no locale knows, and names that would break a page or a terminal."""
    evil = "</script><img src=x onerror=alert(1)>&\x1b[31m\u202e\ud800"
    table = Table(
        evil,
        (evil, "count", "path"),
        (evil, "", ""),
        ((evil, math.nan, None), ("b", -math.inf, evil), (Estimate(1.0, math.inf, evil), True, (1, (2, "c")))),
    )
    empty = Table("layers", ("path", "gradient_rms"), ("", ""), ())
    holes = Table("layers", ("path", "gradient_rms"), ("", ""), ((evil, math.nan), (evil, None), (evil, -1.0)))
    finding = Finding("G101", Severity.INFO, Site(evil, (0,), 3), {"likely": evil, evil: (evil, None)}, confidence=0.4)
    return Report(
        evil,
        evil,
        (finding,),
        (table, empty, Table("training", ("a",), ("",), ((1,),)), Table("training", ("step",), ("",), ()), holes),
        {evil: evil, "story": evil, "objective": 3, "notes": (evil, evil), "title": ""},
        {evil: evil},
        {evil: evil, "seconds": math.nan},
        parts=(Report("?", "", tables=(Table("before", (), (), ()), Table("after", ("path",), ("",), ()))),),
    )


KINDS = {
    "vanishing": vanishing,
    "wrong": wrong,
    "treated": treated,
    "exploded": exploded,
    "sound": sound,
    "demo": demo,
    "strange": strange,
    "empty": lambda: Report("check", "nothing"),
}


@pytest.fixture(params=sorted(KINDS))
def report(request: pytest.FixtureRequest) -> Report:
    return KINDS[request.param]()
