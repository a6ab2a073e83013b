"""What follows from the numbers of all parts: goals, projections, and a sentence for the README. Needs Python alone."""

import csv
from collections.abc import Callable
from pathlib import Path

Numbers = dict[str, float | str]  # by what they are
EPOCHS, TRAINING, VALIDATION = 500, 7165, 1535  # of a run of the paper; tiles of its split
RUNS_OF_EACH = 2 * 2 * 2 * 4  # sensors, normalizations, gradient loss or none, splits
METHODS = {"pix2pix": "Pix2Pix", "unet": "U-Net", "drpan": "DRPAN"}
ATTENTIONS = ("none", "simam", "cbam", "gam")
COMBINATIONS = [f"{method}, {attention}" for method in METHODS for attention in ATTENTIONS]
PLAIN = "plain loop, authors' settings"
# In words, name of the number, how it is written, and whether it is reached.
GOALS: list[tuple[str, str, str, Callable[[float], bool]]] = [
    ("at least 10 times the plain loop", "times the plain loop", "{:.2f} times", lambda times: times >= 10),
    ("at least 25 % of the 16-bit matrix rate", "share of the matrix rate", "{:.1%}", lambda share: share >= 0.25),
    ("the paper's run within 45 minutes", "one run, best loop", "{:.0f} minutes", lambda minutes: minutes <= 45),
]
UNMEASURED = (
    "No GPU has run this code yet, so what it does there (float16 with a scaler, CUDA graphs, TF32) is written and not "
    "measured."
)


def conclude(numbers: Numbers) -> Numbers:
    """What the goals ask, and the paper's run (minutes) and study (days), as far as they follow from the numbers.

    All speak of Pix2Pix. The best loop is the package's own with the switches that were fastest.
    """
    made: Numbers = {}
    plain, work = f"Pix2Pix: {PLAIN}", "Pix2Pix: operations"
    loops = {what: float(value) for what, value in numbers.items() if what.startswith("Pix2Pix: ")}
    loops = {what: rate for what, rate in loops.items() if what not in (plain, work)}
    if not loops:
        return made
    best = max(loops, key=lambda what: loops[what])
    made |= {"best loop": best, "samples/s": loops[best]}
    if plain in numbers:
        made["times the plain loop"] = loops[best] / float(numbers[plain])
    if "matrix rate" in numbers:
        made["share of the matrix rate"] = loops[best] * float(numbers[work]) / 1e3 / float(numbers["matrix rate"])
    if "run: checkpoint" in numbers:
        made["one run"] = _run_seconds(numbers, float(numbers["run: training tile"])) / 60
        made["one run, best loop"] = _run_seconds(numbers, 1 / loops[best]) / 60
        rates = [_rate(what, numbers) for what in COMBINATIONS]
        if all(rates):
            made["all runs"] = sum(RUNS_OF_EACH * _run_seconds(numbers, 1 / rate) for rate in rates) / 86_400
    return made


def _run_seconds(numbers: Numbers, tile: float) -> float:
    """Of a run of the paper: its training tiles, its validation tiles, and two checkpoints after each epoch at most."""
    validated = VALIDATION * float(numbers["run: validation tile"])
    return EPOCHS * (TRAINING * tile + validated + 2 * float(numbers["run: checkpoint"]))


def _rate(combination: str, numbers: Numbers) -> float:
    """Samples per second as measured, or scaled by operations from Pix2Pix without attention; 0 where unknown."""
    work, reference = f"{combination}: operations", "pix2pix, none"
    if combination in numbers:
        return float(numbers[combination])
    if work in numbers and reference in numbers:
        return float(numbers[reference]) * float(numbers["Pix2Pix: operations"]) / float(numbers[work])
    return 0.0


def summary(numbers: Numbers) -> list[str]:
    """Goals and projections as lines of Markdown; none where no loop was timed."""
    made = conclude(numbers)
    if not made:
        return []
    judged = numbers.get("dry") == 0 and any(name in str(numbers.get("machine")) for name in ("H100", "H200"))
    aside = "" if judged else " This is none of them, or a dry run: they are not judged."
    lines = ["## Goals and projections", "", f"The goals are for Pix2Pix on an H100 or H200.{aside}", ""]
    lines += ["| goal | result | reached |", "| --- | ---: | ---: |"]
    for goal, what, form, reached in GOALS:
        known = what in made
        verdict = ("yes" if reached(float(made[what])) else "no") if known and judged else "–"
        lines.append(f"| {goal} | {form.format(made[what]) if known else 'not measured'} | {verdict} |")
    lines += ["", f"The best loop is \"{made['best loop']}\"."]
    if "one run" in made:
        lines += [
            f"Projected: {EPOCHS} epochs of {TRAINING} training tiles, {VALIDATION} validation tiles and two "
            f"checkpoints take {made['one run']:.0f} minutes as `train` ran here, and "
            f"{made['one run, best loop']:.0f} minutes with the best loop."
        ]
    if "all runs" in made:
        measured = sum(what in numbers for what in COMBINATIONS)
        lines += [
            f"The paper's {len(COMBINATIONS) * RUNS_OF_EACH} runs take {made['all runs']:.1f} days, one after the "
            f"other. Of {len(COMBINATIONS)} combinations of method and attention {measured} were timed, the others are "
            "scaled by operations; every run counts with the gradient loss and Pix2Pix's validation and checkpoints."
        ]
    return lines


def write(table: Path, numbers: Numbers) -> None:
    """The file of ``--table``: the numbers and what follows from them, a row each."""
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("what", "value"))
        for what, value in (numbers | conclude(numbers)).items():
            writer.writerow((what, value if isinstance(value, str) else f"{value:.6g}"))


def read(table: Path) -> Numbers:
    """Such a file's content."""
    with table.open(encoding="utf-8", newline="") as file:
        return {row["what"]: _value(row["value"]) for row in csv.DictReader(file)}


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def sentence(table: Path) -> str:
    """What the README says of the GPU: the measured rates where the table is there, else that there are none."""
    numbers = read(table) if table.exists() else {}
    if numbers.get("dry") != 0 or numbers.get("device") != "cuda" or "one run, best loop" not in numbers:
        return UNMEASURED
    machine, failed = str(numbers["machine"]).split(",")[0], float(numbers["checks"]) - float(numbers["checks passed"])
    checks = "all checks of correctness pass" if not failed else f"{failed:g} of {numbers['checks']:g} checks fail"
    return (
        f"On an {machine} {checks}, and Pix2Pix trains at {numbers['samples/s']:.0f} tiles per second, "
        f"{numbers['times the plain loop']:.1f} times as fast as a plain loop with the authors' settings and at "
        f"{numbers['share of the matrix rate']:.0%} of the device's 16-bit matrix rate; the paper's run is projected "
        f"to take {numbers['one run, best loop']:.0f} minutes ([tables](benchmarks/results/gpu.md)). No other kind of "
        "GPU has run this code: float16 with a scaler is written and not measured."
    )
