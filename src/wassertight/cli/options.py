"""Every option that several commands share, declared once: its names, its help, its panel, what the shell completes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from wassertight.cli import completing
from wassertight.cli.configuration import read_configuration
from wassertight.cli.declaring import CLAIM, METHODS, OUTPUT, RUN, SMOOTHING

DEFAULT_MODEL = "digits-cnn-robust"
DEFAULT_DATA = "digits"
DEFAULT_THREATS = ("W1-Linf@0.01,0.02,0.05,0.1", "W2-Linf@0.01,0.02,0.05,0.1")
DEFAULT_N = 200

ModelName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        autocompletion=completing.models,
        help="A name from 'wassertight list models'; package.module:function (a function that returns your model); "
        "path/to/manifest.json#name; path/to/network.json; onnx:file.onnx; hf:organisation/name (or a local folder); "
        "timm:name?pretrained; robustbench:name/cifar10/Linf (downloads pickle files; torch reads tensors only).",
    ),
]
DataName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        autocompletion=completing.data,
        help="A name from 'wassertight list data'; path/to/file.npz with x_test and y_test (uint8, or floats in "
        "[0, 1]; channels first or last); path/to/folder/ of pictures, one sub-folder a class; hf:organisation/name:split. "
        "The last two may end in ?resize=256&crop=224.",
    ),
]
Threats: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--threat",
        "-t",
        autocompletion=completing.threats,
        help="[W<p>-]L<r>@<radius>[,<radius>...], for example W1-Linf@8/255 or L2@0.25,0.5; or, where weights may change too, "
        "<divergence>+[W<p>-]L<r>@<budget>[:<budget>...],<radius>, for example KL+Linf@0.1,8/255; or image-W1@0.01 for light "
        "that moves. Give it again for more. "
        f"Default: {' and '.join(DEFAULT_THREATS)}.",
        show_default=False,
    ),
]
Count: TypeAlias = Annotated[
    int | None,
    typer.Option("--n", "-n", help="Samples: the first so many; 0 for all.", rich_help_panel=RUN),
]
BatchSize: TypeAlias = Annotated[
    int,
    typer.Option("--batch-size", "-b", help="Samples a unit of work; smaller needs less memory.", rich_help_panel=RUN),
]
Device: TypeAlias = Annotated[
    str,
    typer.Option(
        "--device", autocompletion=completing.devices, help="auto, cpu, cuda, cuda:1, ...", rich_help_panel=RUN
    ),
]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", help="Seed of every random draw.", rich_help_panel=RUN)]
RunDirectory: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        "-o",
        help="Where the run is kept. The same command again resumes it. Default: runs/<model>-<data>-<hash>.",
        show_default=False,
        rich_help_panel=RUN,
    ),
]
BoundsText: TypeAlias = Annotated[
    str,
    typer.Option("--bounds", help="Box of admissible inputs: LOW,HIGH or none.", rich_help_panel=RUN),
]
AttackName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--attack",
        "--method",
        "-a",
        autocompletion=completing.attacks,
        help="A name from 'wassertight list methods', or another library's attack: foolbox:LinfPGD, torchattacks:APGD, "
        "autoattack:standard.",
        rich_help_panel=METHODS,
    ),
]
CertificateName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--certificate",
        "-c",
        autocompletion=completing.certificates,
        help="A name from 'wassertight list methods', or none: attack only.",
        rich_help_panel=METHODS,
    ),
]
CertificateMethod: TypeAlias = Annotated[
    str,
    typer.Option(
        "--certificate",
        "--method",
        "-c",
        help="A name from 'wassertight list methods'.",
        autocompletion=completing.certificates,
        rich_help_panel=METHODS,
    ),
]
BoundedLoss: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--loss",
        "-l",
        help="Bound this expected loss instead of the accuracy: cross-entropy (ce) or margin.",
        rich_help_panel=METHODS,
    ),
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A setting of the method, name=value, for example passes=500; give it again for more.",
        show_default=False,
        rich_help_panel=METHODS,
    ),
]
Preset: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--preset",
        "-p",
        autocompletion=completing.presets,
        help="Passes of wda++ and min-norm: quick (about 100 a sample), strong (about 2,000), or auto (quick, then "
        "strong where the bracket is open). Default: 200.",
        show_default=False,
        rich_help_panel=METHODS,
    ),
]
Draws: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--draws",
        help="A randomised model: attack the mean logits of so many draws (EOT). Without it such a model is refused.",
        show_default=False,
        rich_help_panel=METHODS,
    ),
]
SkipUnsupported: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--skip-unsupported",
        help="Where the certificate cannot read the model: attack only, with a flag, instead of an error.",
        rich_help_panel=METHODS,
    ),
]
Sigma: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--sigma", help="Noise, in shares of the image's light.", rich_help_panel=SMOOTHING, show_default=False
    ),
]
NoisyDraws: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--n-draws",
        help="Noisy images that bound the picked class. Default: 100000.",
        rich_help_panel=SMOOTHING,
        show_default=False,
    ),
]
Alpha: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--alpha",
        help="Error probability of each radius. Default: 0.001.",
        rich_help_panel=SMOOTHING,
        show_default=False,
    ),
]
AroundTheLaw: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--population",
        help="Also bound the accuracy around the true law the samples were drawn from: needs independent samples "
        "the model has not seen; costs sqrt(log(1/eta) / 2n), eta = 1 - confidence (1.2 points at n = 10,000).",
        rich_help_panel=CLAIM,
    ),
]
Confidence: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--confidence",
        help="Probability with which the bound around the true law holds, in [0.5, 1). Default: 0.95.",
        show_default=False,
        rich_help_panel=CLAIM,
    ),
]
LabelCost: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--label-cost",
        help="Also let labels move: changing one costs so much, in the unit of the radii, on top of the distance "
        "moved; a number or a fraction such as 16/255. Default: labels never move.",
        show_default=False,
        rich_help_panel=CLAIM,
    ),
]
Json: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print exactly one JSON object on standard output, everything else on standard error.",
        rich_help_panel=OUTPUT,
    ),
]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress bars, no notices.", rich_help_panel=OUTPUT)
]
ConfigFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="A TOML file of options: keys are their long names. The command line wins over it.",
        callback=read_configuration,
        is_eager=True,
        show_default=False,
        rich_help_panel=RUN,
    ),
]
SaveConfig: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--save-config",
        help="Write all options of this command to a TOML file; --config with it repeats the run.",
        show_default=False,
        rich_help_panel=RUN,
    ),
]
DryRun: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check everything, say what would be done and about how long it takes, and stop. Writes nothing.",
        rich_help_panel=RUN,
    ),
]
