"""The runs of a plan: where they are, how far they are, and how they are trained."""

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
    flags: dict[str, Any]  # all flags it comes to, by name
    directory: Path

    @property
    def begun(self) -> bool:
        return (self.directory / "flags.json").is_file()

    def epochs(self) -> int:
        """How many it has finished. Raises InputError when another run is in its place."""
        if not self.begun:
            return 0
        record = read_record(self.directory)
        name = contradiction(record.flags, self.flags)
        if name:
            what = f"has --{name} {record.flags[name]}, the plan {self.flags[name]}"
            raise InputError(f"the run in {self.directory} {what}: move it away")
        return len(record.history)

    def shown(self, passed_on: list[str]) -> str:
        """The command line that trains it."""
        return f"python Train.py {shlex.join([*self.command, *passed_on])}"

    def train(self, passed_on: list[str]) -> None:
        """Bring the run to its last epoch, unless it is there. Raises InputError when Train.py fails."""
        if self.epochs() < self.flags["epochs"]:
            call("Train.py", *self.command, *passed_on, *(["--resume"] if self.begun else []))


def planned_runs(plan_name: str) -> list[PlannedRun]:
    """All runs of a plan, in its order."""
    plan, found = PLANS[plan_name], []
    for training in plan.trainings:
        for seed in training.seeds:
            exp_dir = "-".join(filter(None, (plan_name, training.option, f"seed{seed}")))
            command = [*plan.training_flags(training), "--seed", str(seed), "--exp_dir", exp_dir]
            settings = {**vars(Train.parse(command)), "processes": 1}
            directory = run_directory(plan.dataset_type, training.method, exp_dir)
            found.append(PlannedRun(f"{training.name}-seed{seed}", training, command, settings, directory))
    return found
