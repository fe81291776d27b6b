"""The runs of a plan: their directories, their progress, and how to train them."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import Train
from exp.record import contradiction, read_record
from exp.reproduce.plans import PLANS, Training
from exp.run import call, run_directory
from utils import InputError


class PlannedRun(NamedTuple):
    """One run of a plan."""

    name: str
    training: Training
    command: list[str]  # flags of Train.py
    flags: dict[str, Any]  # all flags of Train.py that result, by name
    directory: Path

    @property
    def begun(self) -> bool:
        return (self.directory / "flags.json").is_file()

    def epochs(self) -> int:
        """The number of finished epochs. Raises InputError when a different run is in its directory."""
        if not self.begun:
            return 0
        record = read_record(self.directory)
        name = contradiction(record.flags, self.flags)
        if name:
            what = f"has --{name} {record.flags[name]}, but the plan needs {self.flags[name]}"
            raise InputError(f"the run in {self.directory} {what}: move it away")
        return len(record.history)

    def shown(self, passed_on: list[str]) -> str:
        """The command line that trains the run."""
        return f"python Train.py {shlex.join([*self.command, *passed_on])}"

    def train(self, passed_on: list[str]) -> None:
        """Train the run to its last epoch, unless that is done. Raises InputError when Train.py fails."""
        if self.epochs() < self.flags["epochs"]:
            call("Train.py", *self.command, *passed_on, *(["--resume"] if self.begun else []))


def planned_runs(plan_name: str) -> list[PlannedRun]:
    """All runs of a plan, in the order of the plan."""
    plan, found = PLANS[plan_name], []
    for training in plan.trainings:
        for seed in training.seeds:
            exp_dir = "-".join(filter(None, (plan_name, training.option, f"seed{seed}")))
            command = [*plan.training_flags(training), "--seed", str(seed), "--exp_dir", exp_dir]
            settings = {**vars(Train.parse(command)), "processes": 1}
            directory = run_directory(plan.dataset_type, training.method, exp_dir)
            found.append(PlannedRun(f"{training.name}-seed{seed}", training, command, settings, directory))
    return found
