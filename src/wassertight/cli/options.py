"""The options several commands share, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

DEFAULT_MODEL = "digits-cnn-robust"
DEFAULT_DATA = "digits"
DEFAULT_THREATS = ("W1-Linf@0.01,0.02,0.05,0.1", "W2-Linf@0.01,0.02,0.05,0.1")
DEFAULT_N = 200

_RUN, _METHODS, _SMOOTHING, _CLAIM, _OUTPUT = "Run", "Methods", "Smoothing", "Claim", "Output"

ModelName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
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
        help="[W<p>-]L<r>@<radius>[,<radius>...], for example W1-Linf@8/255 or L2@0.25,0.5; or, where weights may change too, "
        "<divergence>+[W<p>-]L<r>@<budget>[:<budget>...],<radius>, for example KL+Linf@0.1,8/255; or image-W1@0.01 for light "
        "that moves. Give it again for more. "
        f"Default: {' and '.join(DEFAULT_THREATS)}.",
        show_default=False,
    ),
]
Count: TypeAlias = Annotated[
    int | None,
    typer.Option("--n", "-n", help="Samples: the first so many; 0 for all.", rich_help_panel=_RUN),
]
BatchSize: TypeAlias = Annotated[
    int,
    typer.Option("--batch-size", "-b", help="Samples a unit of work; smaller needs less memory.", rich_help_panel=_RUN),
]
Device: TypeAlias = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...", rich_help_panel=_RUN)]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", help="Seed of every random draw.", rich_help_panel=_RUN)]
RunDirectory: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        "-o",
        help="Where the run is kept. The same command again resumes it. Default: runs/<model>-<data>-<hash>.",
        show_default=False,
        rich_help_panel=_RUN,
    ),
]
BoundsText: TypeAlias = Annotated[
    str,
    typer.Option("--bounds", help="Box of admissible inputs: LOW,HIGH or none.", rich_help_panel=_RUN),
]
AttackName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--attack", "--method", "-a", help="A name from 'wassertight list methods'.", rich_help_panel=_METHODS
    ),
]
CertificateName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--certificate",
        "-c",
        help="A name from 'wassertight list methods', or none: attack only.",
        rich_help_panel=_METHODS,
    ),
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A setting of the method, name=value, for example passes=500; give it again for more.",
        show_default=False,
        rich_help_panel=_METHODS,
    ),
]
Preset: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--preset",
        "-p",
        help="Passes of wda++ and min-norm: quick (about 100 a sample), strong (about 2,000), or auto (quick, then "
        "strong where the bracket is open). Default: 200.",
        show_default=False,
        rich_help_panel=_METHODS,
    ),
]
Draws: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--draws",
        help="A randomised model: attack the mean logits of so many draws (EOT). Without it such a model is refused.",
        show_default=False,
        rich_help_panel=_METHODS,
    ),
]
SkipUnsupported: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--skip-unsupported",
        help="Where the certificate cannot read the model: attack only, with a flag, instead of an error.",
        rich_help_panel=_METHODS,
    ),
]
Sigma: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--sigma", help="Noise, in shares of the image's light.", rich_help_panel=_SMOOTHING, show_default=False
    ),
]
NoisyDraws: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--n-draws",
        help="Noisy images that bound the picked class. Default: 100000.",
        rich_help_panel=_SMOOTHING,
        show_default=False,
    ),
]
Alpha: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--alpha",
        help="Error probability of each radius. Default: 0.001.",
        rich_help_panel=_SMOOTHING,
        show_default=False,
    ),
]
AroundTheLaw: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--population",
        help="Also bound the accuracy around the true law the samples were drawn from: needs independent samples "
        "the model has not seen; costs sqrt(log(1/eta) / 2n), eta = 1 - confidence (1.2 points at n = 10,000).",
        rich_help_panel=_CLAIM,
    ),
]
Confidence: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--confidence",
        help="Probability with which the bound around the true law holds, in [0.5, 1). Default: 0.95.",
        show_default=False,
        rich_help_panel=_CLAIM,
    ),
]
LabelCost: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--label-cost",
        help="Also let labels move: changing one costs so much, in the unit of the radii, on top of the distance "
        "moved; a number or a fraction such as 16/255. Default: labels never move.",
        show_default=False,
        rich_help_panel=_CLAIM,
    ),
]
Json: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print exactly one JSON object on standard output, everything else on standard error.",
        rich_help_panel=_OUTPUT,
    ),
]
Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress bars, no notices.", rich_help_panel=_OUTPUT)
]


def smoothing_settings(sigma: float | None, n: int | None, alpha: float | None) -> tuple[str, ...]:
    """The smoothing options that were given, as settings of the certificate."""
    given = {"sigma": sigma, "n": n, "alpha": alpha}
    return tuple(f"{name}={value}" for name, value in given.items() if value is not None)
