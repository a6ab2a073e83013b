"""The module from a shell: ``python -m sat2dem_core`` with ``train``, ``evaluate`` or ``study``."""

import argparse
import sys
from dataclasses import fields

from sat2dem_core.config import PRESETS, Config, preset
from sat2dem_core.errors import InvalidConfig, Sat2DEMError


def parser() -> argparse.ArgumentParser:
    """The command line, every setting of :class:`sat2dem_core.config.Config` an option of ``train``."""
    top = argparse.ArgumentParser(prog="sat2dem_core", description="One satellite image in, a DEM out.")
    verbs = top.add_subparsers(dest="verb", required=True)

    train = verbs.add_parser("train", help="train a model, or resume or load the run that is already there")
    train.add_argument("--preset", default="cpu", help=f"settings to start from: {', '.join(PRESETS)} (default: cpu)")
    train.add_argument("--run", metavar="DIR", help="the run's folder (default: a cache folder named after the settings)")
    settings = train.add_argument_group("settings", "each in place of the preset's")
    for field in fields(Config):
        settings.add_argument(f"--{field.name.replace('_', '-')}", metavar=field.type.__name__.upper())

    evaluate = verbs.add_parser("evaluate", help="score a run's best checkpoint on its held-out tiles, in meters")
    evaluate.add_argument("run", metavar="DIR", help="a run's folder")

    study = verbs.add_parser("study", help="make every run of a study file, and a table with a row a run")
    study.add_argument("study", metavar="STUDY", help="a TOML file: a preset and [[grid]] tables of settings")
    study.add_argument("table", metavar="CSV", help="the table to write; an interrupted study goes on where it stopped")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. A user's mistake ends in one sentence, not a traceback."""
    args = parser().parse_args(arguments)
    try:
        {"train": _train, "evaluate": _evaluate, "study": _study}[args.verb](args)
    except Sat2DEMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _train(args: argparse.Namespace) -> None:
    from sat2dem_core.training import train  # torch takes seconds to import: --help need not wait for it

    given = {field: getattr(args, field.name) for field in fields(Config)}
    changes = {field.name: _read(field, text) for field, text in given.items() if text is not None}
    run = train(preset(args.preset, **changes), run=args.run)
    best = run.log.sort_values("validation_mae").iloc[0]
    print(f"{run.folder}: validation MAE {best.validation_mae:.1f} m at step {best.step:.0f}")


def _read(field, text: str):
    if field.type is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise InvalidConfig(f"{field.name} is {text!r}: give true or false")
    try:
        return field.type(text)
    except ValueError as error:
        raise InvalidConfig(f"{field.name} is {text!r}: give a number ({field.type.__name__})") from error


def _evaluate(args: argparse.Namespace) -> None:
    from sat2dem_core.checkpoints import load_model
    from sat2dem_core.evaluation import evaluate
    from sat2dem_core.training import prepare

    model = load_model(args.run)
    data = prepare(model.config)
    print(evaluate(model, data.test, data.train).round(3).to_string(na_rep="-"))


def _study(args: argparse.Namespace) -> None:
    from sat2dem_core.study import run_study

    print(f"{args.table}: {len(run_study(args.study, args.table))} runs")


if __name__ == "__main__":
    sys.exit(main())
