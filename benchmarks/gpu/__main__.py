"""The parts one after the other, each in processes that are ended after some seconds; see benchmarks/gpu.sh."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import results

# Processes of each part, and the seconds after which they are ended: 220 in all.
PARTS = {"correctness": {"correctness": 60}, "speed": {"speed": 80, "compiled": 40}, "predict": {"predict": 40}}
LIMITS = {process: seconds for part in PARTS.values() for process, seconds in part.items()}
CHECK_FAILED = 3  # exit status of a process; Python's own for an error is 1
PATIENCE = 600  # seconds, the limit of a dry run, which must not leave anything out on a busy machine
MARGIN = 4  # seconds before its limit in which a process begins nothing new


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--dry", action="store_true", help="tiny sizes, on any processor: whether every part runs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the tables there")
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write the main numbers there")
    # A process, the folder for what it has to say, and when it ends, seconds since 1970.
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return run_one(args.one[0], Path(args.one[1]), float(args.one[2]), args.dry)
    for part in args.parts:
        if part not in PARTS:
            parser.error(f"unknown part {part!r}: choose from {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no process is left behind
    with tempfile.TemporaryDirectory() as folder:
        return run_all(args.parts or list(PARTS), Path(folder), args)


def run_one(process: str, folder: Path, end: float, dry: bool) -> int:
    """One of the processes; its exit status."""
    from report import Report, machine  # the parent needs no torch, and takes no memory of the GPU

    report = Report(process, folder, end, dry)
    line = machine(report)
    print(line + "\n", flush=True)
    for what, value in (("machine", line), ("device", report.device.type), ("dry", int(dry))):
        report.number(what, value)
    import_module(process).measure(report)
    report()
    return CHECK_FAILED if report.failed else 0


def run_all(parts: list[str], folder: Path, args: argparse.Namespace) -> int:
    """All processes of the parts, then the summary; 1 if a check failed or one of them did not finish."""
    failed, sections, spare = False, [], 0.0
    for process in (process for part in parts for process in PARTS[part]):
        limit = PATIENCE if args.dry else LIMITS[process] + spare
        started = time.time()
        command = [sys.executable, str(Path(__file__).parent), "--one", process, str(folder)]
        command += [str(started + limit - MARGIN), *["--dry"] * args.dry]
        status = run_limited(command, limit, environment_of(process, folder))
        spare = limit - (time.time() - started)  # the next may take what this one left
        failed |= status != 0
        section = folder / f"{process}.md"
        sections.append(section.read_text(encoding="utf-8") if section.exists() else "")
        if status not in (0, CHECK_FAILED):
            end = f"was ended after {limit:.0f} s" if status is None else f"crashed (status {status})"
            sections.append(f"\nThe process `{process}` {end}: what is missing above was not measured.\n\n")
            print(sections[-1], flush=True)
        write(args, folder, "".join(sections))  # each time: whoever ends this one keeps what there is
    print("\n".join(results.summary(numbers_of(folder))), flush=True)
    return int(failed)


def environment_of(process: str, folder: Path) -> dict[str, str]:
    """Variables that libraries read when they start."""
    if process == "correctness":  # without it cuBLAS adds in no fixed order
        return {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    if process == "compiled":  # it starts with nothing compiled, and leaves no half-written file behind if it is ended
        return {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    return {}


def run_limited(command: list[str], seconds: float, environment: dict[str, str]) -> int | None:
    """Run a command and all that it starts; its exit status, None if it had to be ended."""
    child = subprocess.Popen(command, process_group=0, env=os.environ | environment)
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def numbers_of(folder: Path) -> results.Numbers:
    """What the processes measured so far; of a number that was measured twice, the later one."""
    path = folder / "numbers.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {what: value for what, value in map(json.loads, lines)}


def write(args: argparse.Namespace, folder: Path, sections: str) -> None:
    """The files that were asked for."""
    numbers = numbers_of(folder)
    if args.out:
        title = "# A dry run, tiny and no measurement" if args.dry else "# On a GPU"
        origin = f"{numbers.get('machine', 'Unknown machine')}. Made by `bash benchmarks/gpu.sh`."
        summary = "\n".join(results.summary(numbers))
        args.out.write_text(f"{title}\n\n{origin}\n\n{sections}{summary}\n", encoding="utf-8")
    if args.table:
        results.write(args.table, numbers)


if __name__ == "__main__":
    sys.exit(main())
