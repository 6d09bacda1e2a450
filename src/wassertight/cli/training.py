"""The commands `train` and `finetune`: their options, and what their help teaches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, TypeAlias

import typer

from wassertight.cli import completing
from wassertight.cli import options as opt
from wassertight.cli.declaring import EVALUATION, RUN, TRAINING, from_options

ObjectiveName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--objective",
        "-O",
        autocompletion=completing.objectives,
        help="A name from 'wassertight list objectives', +awp and the like behind it.",
    ),
]
ThreatText: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--threat",
        "-t",
        autocompletion=completing.threats,
        help="What to withstand, for example Linf@8/255 or W2-Linf@8/255.",
    ),
]
ArchitectureName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        autocompletion=completing.architectures,
        help="A name from 'wassertight list architectures', or package.module:function of your own.",
    ),
]
StartName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        autocompletion=completing.models,
        help="The trained network to start from; as for 'wassertight evaluate'.",
    ),
]
DataName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--data",
        "-d",
        autocompletion=completing.data,
        help="digits, or path/to/file.npz with x_train, y_train (and x_test, y_test).",
    ),
]
RecipeFile: TypeAlias = Annotated[
    Path | None, typer.Option("--recipe", help="A .toml file of settings; flags win over it. See recipes/.")
]
Epochs: TypeAlias = Annotated[int | None, typer.Option("--epochs", "-e", rich_help_panel=TRAINING)]
BatchSize: TypeAlias = Annotated[int | None, typer.Option("--batch-size", "-b", rich_help_panel=TRAINING)]
Rate: TypeAlias = Annotated[float | None, typer.Option("--rate", help="Learning rate.", rich_help_panel=TRAINING)]
ObjectiveSettings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the objective, name=value, for example beta=6; repeat for more."),
]
TrainingSettings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        help="Any other training setting, name=value: optimiser=adam, schedule=cosine, ema=0.995, clip_norm=5, "
        "precision=bf16, augment=crop-flip, patience=5, keep=last, ...",
        rich_help_panel=TRAINING,
    ),
]
TrainingCount: TypeAlias = Annotated[
    int | None, typer.Option("--n", "-n", help="Training images: the first so many; all by default.")
]
Validation: TypeAlias = Annotated[
    int | None,
    typer.Option("--validation", help="Training images kept apart to choose weights by; a tenth, at most 1,000."),
]
Device: TypeAlias = Annotated[str, typer.Option("--device", help="auto or cpu.", rich_help_panel=RUN)]
Seed: TypeAlias = Annotated[
    int | None, typer.Option("--seed", help="Of weights, order, crafting and evaluation.", rich_help_panel=RUN)
]
RunDirectory: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        "-o",
        help="The same command again resumes there. Default: runs/<objective>-<hash>.",
        rich_help_panel=RUN,
    ),
]
Evaluate: TypeAlias = Annotated[
    bool,
    typer.Option("--evaluate/--no-evaluate", help="Attack the start and the end on test data.",
                 rich_help_panel=EVALUATION),
]  # fmt: skip
EvaluationThreats: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--evaluate-threat", autocompletion=completing.threats, help="As for evaluate; default: Linf, W1 and W2 at the training radius.",
                 rich_help_panel=EVALUATION),
]  # fmt: skip
EvaluationCount: TypeAlias = Annotated[
    int | None, typer.Option("--evaluate-n", help="Test images; 0 for all.", rich_help_panel=EVALUATION)
]
Certificate: TypeAlias = Annotated[
    str,
    typer.Option(
        "--certificate",
        "-c",
        autocompletion=completing.certificates,
        help="Also certify; none by default.",
        rich_help_panel=EVALUATION,
    ),
]
WeightNoise: TypeAlias = Annotated[
    float, typer.Option("--perturb", help="Start from weights with noise of so much of each layer's norm (0.02).")
]
ResetLast: TypeAlias = Annotated[bool, typer.Option("--reset-last-layer", help="Start with a fresh last layer.")]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What both share; None where the recipe or a default decides."""

    command: ClassVar[str]

    model: ArchitectureName = None
    objective: ObjectiveName = None
    threat: ThreatText = None
    data: DataName = None
    recipe: RecipeFile = None
    epochs: Epochs = None
    batch_size: BatchSize = None
    rate: Rate = None
    setting: ObjectiveSettings = None
    training: TrainingSettings = None
    n: TrainingCount = None
    validation: Validation = None
    device: Device = "auto"
    seed: Seed = None
    run_dir: RunDirectory = None
    config: opt.ConfigFile = None
    save_config: opt.SaveConfig = None
    dry_run: opt.DryRun = False
    evaluate: Evaluate = True
    evaluate_threat: EvaluationThreats = None
    evaluate_n: EvaluationCount = None
    certificate: Certificate = "none"
    preset: opt.Preset = None
    as_json: opt.Json = False
    quiet: opt.Quiet = False


@dataclass(frozen=True, kw_only=True)
class Train(Training):
    """From scratch."""

    command: ClassVar[str] = "train"


@dataclass(frozen=True, kw_only=True)
class Finetune(Training):
    """From a trained network."""

    command: ClassVar[str] = "finetune"

    model: StartName = None
    perturb: WeightNoise = 0.0
    reset_last_layer: ResetLast = False


@from_options
def train(order: Train) -> int:
    """Train a network from scratch so that it withstands a threat, and attack it before and after.

    Interrupt or kill it at any time: the same command again resumes, on a CPU to the same weights. The run directory
    holds network.json (for 'wassertight evaluate -m'), log.csv, checkpoints and result.json.
    """
    from wassertight.cli.training_run import carry_out

    return carry_out(order)


@from_options
def finetune(order: Finetune) -> int:
    """Fine-tune a trained network against a threat, and attack it before and after.

    Defaults: SGD-Nesterov at a rate of 0.01 down a cosine, 10 epochs, batches of 256, averaged weights. The published
    distributional fine-tuning begins from --perturb 0.02 or --reset-last-layer.
    """
    from wassertight.cli.training_run import carry_out

    return carry_out(order)
