"""The benchmark for a GPU: its parts run anywhere with tiny sizes, and what follows from its numbers is right."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "benchmarks/gpu"), str(ROOT / "tests/training")]
import results  # noqa: E402
from test_light import LIGHT  # noqa: E402


def run(*arguments, **environment):
    """The script with tiny sizes, on the processor: what it prints."""
    alone = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", "benchmarks/gpu.sh", "--dry", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | alone | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def light(tmp_path):
    """The environment of an interpreter that can import five libraries alone, those that they require, and the tree."""
    (tmp_path / "light").mkdir()
    (tmp_path / "light/sitecustomize.py").write_text(LIGHT, encoding="utf-8")
    return {"PYTHONPATH": str(tmp_path / "light")}


def cells(text):
    """The cells of each row of all tables."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| --- ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_correctness_compares_with_the_authors_interrupts_a_run_and_tries_16_bits(light):
    printed = run("correctness", **light)
    rows = {row[0]: row for row in cells(printed)[1:]}
    assert all(row[3] == "yes" for row in rows.values() if row[1])
    networks = [name for name in rows if "the authors' numbers" in name]
    assert [name.split(", ")[1].split(":")[0] for name in networks] == [
        "attention", "unet", "discriminator", "reviser", "drpan", "loss",
    ]
    assert rows["run in float32, interrupted after step 6 of 8: weights and optimizers"][1] == "0"
    assert rows["streamed batches compared with resident ones: pixels that differ"][1] == "0"
    half = "compared with float32: gradient of the generator"
    assert any(half in name or "16 bits (left out" in name for name in rows)
    assert "TF32 and the comparison with the processor are left out: they are for CUDA alone." in printed


def test_speed_times_each_switch_and_the_plain_loop_and_projects_the_paper(light, tmp_path):
    printed = run("speed", "--out", tmp_path / "gpu.md", "--table", tmp_path / "gpu.csv", **light)
    rows = {row[0]: row for row in cells(printed)}
    loops = results.PLAIN, "float32, data from the host", "+ resident data", "+ fused Adam", "fused Adam alone"
    for name in (f"{method}: {loop}" for method in ("Pix2Pix", "U-Net") for loop in loops):
        assert float(rows[name][1]) > 0
    assert [float(rate) > 0 for method in results.METHODS.values() for rate in rows[method][1:]] == [True] * 12
    assert "torch.compile and CUDA graphs are left out: they are for CUDA alone." in printed
    assert "a dry run: they are not judged" in printed and rows["at least 10 times the plain loop"][2] == "–"
    assert re.search(r"384 runs take [\d.]+ days.* method and attention 12 were timed", printed)

    tables = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert tables.startswith("# A dry run") and cells(tables) == cells(printed)
    numbers = results.read(tmp_path / "gpu.csv")
    assert numbers["device"] == "cpu" and numbers["dry"] == 1 and numbers["matrix rate"] > 0
    assert numbers["times the plain loop"] == pytest.approx(
        numbers["samples/s"] / numbers[f"Pix2Pix: {results.PLAIN}"], rel=1e-4
    )


@pytest.mark.parametrize("blends", [False, True], ids=["five libraries", "all"])
def test_prediction_blends_where_scipy_is(light, blends):
    printed = run("predict", **({} if blends else light))
    assert float(dict(row[:2] for row in cells(printed))["float32"]) > 0
    assert ("it covers all 40000 px" in printed) == blends
    assert ("The blending is left out: it needs scipy, which is not installed." in printed) != blends


def test_a_part_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    main = load_main()
    started = time.monotonic()
    command = ["bash", "-c", f"sleep 60 & echo $! >{tmp_path}/pid; wait"]
    assert main.run_limited(command, 0.5, {}) is None
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):  # a zombie would still be found until its parent, init, has seen it
        for _ in range(100):
            os.kill(int((tmp_path / "pid").read_text()), 0)
            time.sleep(0.1)
    assert main.run_limited([sys.executable, "-c", "import os; exit(int(os.environ['CODE']))"], 60, {"CODE": "3"}) == 3


def load_main():
    import importlib.util

    spec = importlib.util.spec_from_file_location("gpu_main", ROOT / "benchmarks/gpu/__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MEASURED = {
    "machine": "NVIDIA H200, 140 GiB, 16 cores", "device": "cuda", "dry": 0, "checks": 20, "checks passed": 20,
    "matrix rate": 800.0, "Pix2Pix: operations": 80.0, f"Pix2Pix: {results.PLAIN}": 250.0,
    "Pix2Pix: float32, data from the host": 400.0, "Pix2Pix: + bfloat16": 2500.0,
    "run: training tile": 1 / 2000, "run: validation tile": 1 / 5000, "run: checkpoint": 0.5,
}


def test_goals_and_projections_follow_from_the_numbers():
    made = results.conclude(MEASURED)
    assert made["best loop"] == "Pix2Pix: + bfloat16" and made["times the plain loop"] == 10
    assert made["share of the matrix rate"] == pytest.approx(0.25)  # 2500 x 80 GFLOP are 200 TFLOP/s
    assert made["one run"] * 60 == pytest.approx(500 * (7165 / 2000 + 1535 / 5000 + 2 * 0.5))
    assert made["one run, best loop"] * 60 == pytest.approx(500 * (7165 / 2500 + 1535 / 5000 + 2 * 0.5))
    assert "all runs" not in made
    verdicts = [row[2] for row in cells("\n".join(results.summary(MEASURED)))[1:]]
    assert verdicts == ["yes", "yes", "yes"]
    slower = MEASURED | {"Pix2Pix: + bfloat16": 1200.0}
    assert [row[2] for row in cells("\n".join(results.summary(slower)))[1:]] == ["no", "no", "no"]


def test_combinations_that_were_not_timed_are_scaled_by_their_operations():
    timed = {what: 2000.0 for what in results.COMBINATIONS}
    days = results.conclude(MEASURED | timed)["all runs"]
    assert days * 86_400 == pytest.approx(384 * 500 * (7165 / 2000 + 1535 / 5000 + 2 * 0.5))
    del timed["drpan, gam"]
    assert "all runs" not in results.conclude(MEASURED | timed)
    scaled = timed | {"drpan, gam: operations": 160.0}  # twice Pix2Pix's
    more = results.conclude(MEASURED | scaled)["all runs"] - days
    assert more * 86_400 == pytest.approx(32 * 500 * 7165 / 2000)


def test_the_readme_says_of_the_gpu_what_was_measured():
    table = ROOT / "data/results/gpu.csv"
    said = results.sentence(table)
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert said in readme, f"README.md must say: {said}"
    assert table.exists() == (ROOT / "benchmarks/results/gpu.md").exists(), "write both files in one run"


def test_the_sentence_names_machine_rates_and_failed_checks_and_takes_no_dry_run_for_a_measurement(tmp_path):
    def say(**changes):
        results.write(tmp_path / "gpu.csv", MEASURED | changes)
        return results.sentence(tmp_path / "gpu.csv")

    assert say().startswith("On an NVIDIA H200 all checks of correctness pass, and Pix2Pix trains at 2500 tiles per s")
    assert "10.0 times as fast" in say() and "25% of" in say() and "take 35 minutes" in say()
    assert "3 of 20 checks fail" in say(**{"checks passed": 17})
    assert say(dry=1) == say(device="cpu") == results.UNMEASURED
