"""Lin-Sep: four separable points, a 2-8-1 network with relu^2, and the asymptotic relations.

Three neurons grow: two hidden ones and the output. Under EWN their products ||w|| ||g|| become
equal, under SWN their quotients ||g|| / ||w||. relu^2 makes room for that: Euler's theorem gives
the sum of w_u.g_u over a layer as the degree of the layer times one number, and here 2 : 1.
"""

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from ewnprune.experiments.descent import COLORS, Method
from ewnprune.experiments.lin_sep_course import FAR, GROWING, Course, course_down, go_on
from ewnprune.experiments.reference import read
from ewnprune.experiments.verdict import (
    Criterion,
    above,
    below,
    near,
    within,
    write_csv,
    write_figure,
)


def run(out: Path) -> list[Criterion]:
    """Run the experiment.

    Writes ``courses.csv``, ``far.csv`` (EWN on to ``log L = -10,000``) and the figure.
    """
    courses, steps = {}, {}
    with tqdm(total=657 + 12_683 + 38_800, desc="lin-sep", unit="step", leave=False) as bar:
        for method in GROWING:
            courses[method], end = course_down(method, bar)
            steps[method] = int(end.state.accepted[0])
            if method == "EWN":
                far, rates = go_on(end.weights, end.squared_norms, bar)
    write_csv(
        out / "courses.csv",
        [row for method, course in courses.items() for row in _rows(method, course)],
    )
    write_csv(
        out / "far.csv",
        [row | {"t_L_u2": rate} for row, rate in zip(_rows("EWN", far), rates, strict=True)],
    )
    write_figure(out, _figure(courses, far))
    return [
        *_judge_levels(courses, steps),
        *_judge_trend(courses, far, rates),
        *_judge_angles(courses, far),
    ]


def _rows(method: Method, course: Course) -> list[dict[str, float | str]]:
    points = len(course.log_loss)
    shown = sorted({int(points ** (k / 400)) - 1 for k in range(401)})
    return [
        {"method": method, "step": k, "log_loss": course.log_loss[k].item(),
         "margin": course.margin[k].item()}
        | {
            f"{name}{u}": getattr(course.found, name)[k, u].item()
            for name in ("norm", "gradient", "cosine")
            for u in range(9)
        }
        for k in shown
    ]  # fmt: skip


def _judge_levels(courses: dict[Method, Course], steps: dict[Method, int]) -> list[Criterion]:
    ewn, swn = courses["EWN"], courses["SWN"]
    logged = {"EWN": (5.212, 5.982, 8.432), "SWN": (5.945, 6.693, 6.442)}
    off = {
        m: (course.found.norm[-1, GROWING[m]] - torch.tensor(logged[m])).abs().max().item()
        for m, course in courses.items()
    }
    return [
        below("L1", "EWN: ||w|| ||g||, largest over smallest at -300",
              ewn.spread("EWN", "product", -1), 1.10),
        above("L1", "EWN: ||g|| / ||w||, largest over smallest at -300",
              ewn.spread("EWN", "quotient", -1), 2),
        below("L1", "EWN: norms against the log", off["EWN"], 0.02),
        near("L1", "EWN: steps", steps["EWN"], 653, 10),
        below("L2", "SWN: ||g|| / ||w||, largest over smallest at -300",
              swn.spread("SWN", "quotient", -1), 1.05),
        above("L2", "SWN: ||w|| ||g||, largest over smallest at -300",
              swn.spread("SWN", "product", -1), 1.2),
        below("L2", "SWN: norms against the log", off["SWN"], 0.02),
        near("L2", "SWN: normalized margin", swn.margin[-1].item(), 0.2133, 0.001),
        near("L2", "SWN: steps", steps["SWN"], 12_284, 100),
    ]  # fmt: skip


def _judge_trend(courses: dict[Method, Course], far: Course, rates: list[float]) -> list[Criterion]:
    trend = []
    for method, course in courses.items():
        quantity = "product" if method == "EWN" else "quotient"
        spreads = [course.spread(method, quantity, course.at(depth)) for depth in (200, 250)]
        spreads.append(course.spread(method, quantity, -1))
        trend += [
            below("L3", f"{method}: {quantity} spread at -250, and at -200", *spreads[1::-1]),
            below("L3", f"{method}: {quantity} spread at -300, and at -250", *spreads[:0:-1]),
        ]  # fmt: skip
    norm = far.found.norm[-1]
    since = rates[far.at(1000)]
    return [
        *trend,
        below("L3", "EWN: product spread at -10,000", far.spread("EWN", "product", -1), 1.02),
        near("L3", "EWN: norm of neuron 5 over that of 7 at -10,000",
             (norm[5] / norm[7]).item(), 0.8328, 0.01),
        below("L3", "EWN: change of t L u^2 from -1,000 to -10,000",
              abs(rates[-1] / since - 1), 0.01),
    ]  # fmt: skip


def _judge_angles(courses: dict[Method, Course], far: Course) -> list[Criterion]:
    ewn, swn = courses["EWN"].found.cosine[-1], courses["SWN"].found.cosine[-1]
    return [
        below("L4", "EWN: cosine of w and g, neurons 5 and 7", ewn[[5, 7]].max().item(), -0.9999),
        within("L4", "EWN: the same, neuron 8, not converged", ewn[8].item(), -0.98, -0.96),
        below("L4", "EWN: the same at -10,000", far.found.cosine[-1, 8].item(), -0.995),
        below("L4", "SWN: cosine of w and g, all three",
              swn[GROWING["SWN"]].max().item(), -0.9999),
    ]  # fmt: skip


def _figure(courses: dict[Method, Course], far: Course) -> Figure:
    figure = Figure(figsize=(5.2, 10.5), layout="constrained")
    panels = iter(figure.subplots(4, sharex=True, sharey=True))
    names = (("product", "wg", r"$\|w\|\,\|g\|$"), ("quotient", "g_over_w", r"$\|g\|/\|w\|$"))
    for method, course in courses.items():
        logged = [r for r in read("lin_sep_levels") if r["method"] == method]
        wild = course.wild(method)
        for quantity, column, label in names:
            ax = next(panels)
            for style, c in (("-", course), ("--", far)):
                if c is far and method != "EWN":
                    continue
                values = getattr(c.found, quantity)[:, GROWING[method]]
                values = values / values.mean(1, keepdim=True)
                if c is course:
                    values[wild] = math.nan
                for k, (u, line) in enumerate(zip(GROWING[method], (3, 1.8, 0.9), strict=True)):
                    name = f"neuron {u}" if c is course else None
                    ax.plot(
                        (-c.log_loss).tolist(), values[:, k].tolist(), style,
                        color=COLORS[method], linewidth=line, label=name,
                    )  # fmt: skip
            ax.axvspan(
                *(-course.log_loss[wild][[0, -1]]).tolist(), color="0.88", label="step too large"
            )
            for r in logged:
                three = torch.tensor([float(r[f"{column}{x}"]) for x in "ABC"])
                ax.plot([-float(r["log_loss"])] * 3, (three / three.mean()).tolist(), "k_")
            ax.set(title=f"{method}: {label} over the mean", xscale="log", xlim=(1, FAR))
            ax.set(ylim=(0, 2.4))
            ax.axhline(1, color="gray", linewidth=0.5)
            ax.legend(fontsize="small", loc="upper right")
    ax.set_xlabel(r"$-\log L$, log scale")
    return figure
