"""Every method by its command-line name: what it is, where it comes from, which threats it takes, how it is built."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from wassertight.errors import InputError, nearest
from wassertight.evaluation.method import REWEIGHTED, Method

_POINTWISE, _ABOVE_ONE = "p = inf", "p > 1"


def _attack(name: str, attribute: str, description: str, reference: str, **rest: Any) -> Method:
    target = f"wassertight.attacks:{attribute}"
    return Method(name=name, kind="attack", target=target, description=description, reference=reference, **rest)


def _certificate(name: str, attribute: str, reference: str, description: str, **rest: Any) -> Method:
    target = f"wassertight.certificates:{attribute}"
    return Method(name=name, kind="certificate", target=target, description=description, reference=reference, **rest)


_ATTACKS = (
    _attack("wda++", "WDAPlusPlus",
        "nearest flips by our minimum-norm search, bought by the exact knapsack (default)", "2510.10000"),
    _attack("wda++-reference", "WDAPlusPlus",
        "WDA++ as released, step by step; the yardstick for wda++", "2510.10000", preset={"mode": "reference"}),
    _attack("wda", "WDA",
        "ascent towards a probed class at a stretched radius, then pull-back and exact allocation", "2510.10000"),
    _attack("wda-reference", "WDA",
        "WDA as released, mixed with weight stretch**-p", "2510.10000", preset={"mode": "reference"}),
    _attack("armor", "ARMOR",
        "moves and weights out of one budget: minimum-norm flips and the tilted knapsack", "2309.03791", orders=REWEIGHTED),
    _attack("armor-loss", "ARMOR",
        "the law of largest expected loss: candidate table, exact dual, prox rounds", "2309.03791",
        preset={"objective": "loss"}, orders=REWEIGHTED),
    _attack("armor-reference", "ARMOR",
        "ARMOR as released: fixed price, explicit pull, learned duals; mixed with the data until inside the ball",
        "2309.03791", preset={"objective": "loss", "mode": "reference"}, orders=REWEIGHTED),
    _attack("a3-wda", "A3",
        "adaptive restarts with learnt directions, WDA inside", "2510.10000", preset={"inner": "wda"}, orders=_POINTWISE),
    _attack("a3-wda-reference", "A3",
        "A3-WDA with the released last-iterate climb", "2510.10000", preset={"inner": "wda", "mode": "reference"}, orders=_POINTWISE),
    _attack("a3", "A3",
        "adaptive auto attack: restarts with learnt directions, hard samples discarded", "2203.05154", orders=_POINTWISE),
    _attack("min-norm", "MinimumNorm",
        "nearest misclassified points along the decision boundary", "2102.12827, 1907.02044"),
    _attack("fmn", "FMN", "fast minimum norm: normalised steps, a radius that follows success", "2102.12827"),
    _attack("ddn", "DDN", "decoupled direction and norm", "1811.09600", norms=(2.0,)),
    _attack("pdpgd", "PDPGD", "primal-dual proximal gradient descent", "2106.01538"),
    _attack("fab", "FAB", "fast adaptive boundary attack, all classes linearised at each step", "1907.02044"),
    _attack("fab-t", "FAB", "its targeted version, nine classes", "1907.02044", preset={"targets": 9}),
    _attack("deepfool", "DeepFool", "walk to the nearest linearised boundary until the class changes", "1511.04599"),
    _attack("apgd-bisect", "BisectedAPGD", "APGD-T at a bisected radius of every sample", "2003.01690"),
    _attack("w-fgsm", "FGSM",
        "one first-order optimal step of the whole batch under a shared budget", "2306.09844", orders=_ABOVE_ONE),
    _attack("w-fgsm-reference", "FGSM",
        "W-FGSM as published", "2306.09844", preset={"mode": "reference"}, orders=_ABOVE_ONE),
    _attack("w-pgd", "PGD",
        "projected ascent of the whole batch, then pull-back and exact allocation", "2306.09844", orders=_ABOVE_ONE),
    _attack("w-pgd-reference", "PGD",
        "W-PGD as published: scaling projection, best common iterate", "2306.09844", preset={"mode": "reference"}, orders=_ABOVE_ONE),
    _attack("fgsm", "FGSM", "one signed step of the whole radius", "1412.6572", orders=_POINTWISE),
    _attack("pgd", "PGD", "projected gradient ascent on the loss", "1706.06083", orders=_POINTWISE),
    _attack("apgd-ce", "APGD", "auto-PGD on the cross-entropy", "2003.01690", orders=_POINTWISE),
    _attack("apgd-dlr", "APGD",
        "auto-PGD on the difference of logits ratio", "2003.01690", preset={"loss": "dlr"}, orders=_POINTWISE),
    _attack("apgd-t", "APGD",
        "auto-PGD on the targeted ratio, nine classes", "2003.01690", preset={"targets": 9}, orders=_POINTWISE),
    _attack("square", "Square", "random search with squares, no gradients", "1912.00049", orders=_POINTWISE),
    _attack("autoattack", "AutoAttack",
        "APGD-CE, APGD-T, FAB-T and Square in that order", "2003.01690", orders=_POINTWISE),
    *(_attack(name, attribute, f"moving light: {description}", reference, images=True, preset=preset)
      for name, attribute, description, reference, preset in (
        ("frank-wolfe", "FrankWolfe", "Frank-Wolfe with exact oracle and prices at the cap (default there)", "2008.02883", {}),
        ("frank-wolfe-reference", "FrankWolfe", "Frank-Wolfe with the published entropic oracle", "2008.02883",
         {"mode": "reference", "steps": 300}),
        ("frank-wolfe-distance", "TransportDistance", "least radius of every image by bisection, for average budgets",
         "2008.02883", {}),
        ("dual-projection", "DualProjection", "projected gradient ascent on plans, prices at the cap", "2008.02883", {}),
        ("dual-projection-reference", "DualProjection", "the same with the published constants", "2008.02883",
         {"mode": "reference", "steps": 300}),
        ("sinkhorn-pgd", "SinkhornPGD", "gradient ascent on pixels, projected Sinkhorn", "1902.07906, 2004.12478", {}),
        ("sinkhorn-pgd-wong", "SinkhornPGD", "projected Sinkhorn with Wong et al.'s sign steps", "1902.07906",
         {"rule": "sign", "rate": 0.1, "rounds": 400}),
        ("sinkhorn-pgd-hu", "SinkhornPGD", "projected Sinkhorn with Hu et al.'s steps", "2004.12478",
         {"rule": "largest", "rate": 0.06, "rounds": 400}),
    )),
    *(_attack(name, "SmoothedFrankWolfe", f"moving light: {description}", reference, images=True, smoothed=True, preset=preset)
      for name, description, reference, preset in (
        ("smoothed-frank-wolfe", "Frank-Wolfe on a smoothed classifier, gradients averaged over noise and steps",
         "1910.10783, 1804.09554", {}),
        ("smoothed-frank-wolfe-distance", "the same at bisected radii, for all radii and average budgets (default there)",
         "1910.10783, 1804.09554", {"rounds": 6}),
        ("smoothed-frank-wolfe-128", "the same with 128 draws a step, 200 steps, no averaging, as published", "1910.10783",
         {"draws": 128, "averaged": False, "steps": 200, "halvings": 0, "alpha": 0.05}),
    )),
)  # fmt: skip
_PUBLISHED = {"tight": False, "n": 10_000, "alpha": 0.05}
_CERTIFICATES = (
    _certificate("crown", "LinearPropagation", "1811.00866", "backward linear bounds over ball and box (default)"),
    _certificate("auto", "Auto", "2103.06624",
        "crown, then branch and bound only on samples that can still move the value"),
    _certificate("bab", "BranchAndBound", "2103.06624", "optimised slopes and branch and bound on every sample"),
    _certificate("input-split", "InputSplit", "2103.06624",
        "crown, then division of the input, for few coordinates and smooth networks"),
    _certificate("forward", "ForwardPropagation", "2002.12920",
        "linear forms pushed forward, for wide layers and few coordinates of the input"),
    _certificate("crown-ibp", "CrownIBP", "1906.06316", "intervals inside, backward linear bounds of the margins"),
    _certificate("interval", "IntervalPropagation", "1810.12715",
        "interval bounds: cheap, tight only for networks trained for them"),
    *(_certificate(*row, images=True, preset=preset) for row, preset in (
        (("wasserstein-smoothing", "GaussianFlowSmoothing", "1910.10783",
          "moving light: Gaussian noise on flows, effective resistance, light of each pixel"), {}),
        (("wasserstein-smoothing-reference", "LaplaceFlowSmoothing", "1910.10783",
          "moving light: Laplace noise on flows, as published"), _PUBLISHED),
        (("noisy-votes", "NoisyVotes", "2201.12440",
          "moving light: share of right answers, each image answered once under noise; one vote an image will do"), {}),
        (("laplace-flow", "LaplaceFlowSmoothing", "1910.10783", "moving light: Laplace noise on flows, tight"), {}),
        (("zonotope-flow", "ZonotopeFlowSmoothing", "1910.10783", "moving light: uniform noise on the flow zonotope"), {}),
        (("deterministic-flow", "DeterministicFlowSmoothing", "2103.10834",
          "moving light: rounded block sums, exact votes, no sampling"), {}),
        (("pixel-gauss", "GaussianPixelSmoothing", "1902.02918", "moving light: Gaussian noise on pixels"), {}),
        (("pixel-laplace", "LaplacePixelSmoothing", "1910.10783", "moving light: Laplace noise on pixels"), {}),
        (("pixel-uniform", "UniformPixelSmoothing", "2002.08118", "moving light: uniform noise on pixels"), {}),
        (("pixel-splitting", "SplittingSmoothing", "2103.10834", "moving light: splitting noise on pixels (SSN)"), {}),
        (("pixel-splitting-exact", "DeterministicSplittingSmoothing", "2103.10834",
          "moving light: all shifts of one grid, exact votes, 8-bit images (DSSN)"), {}),
    )),
)  # fmt: skip


_STUDIES = tuple(
    Method(name=name, kind="study", target=f"wassertight.{target}", description=description, reference=reference)
    for name, target, reference, description in (
        ("loss", "attacks:ExpectedLoss", "2306.09844, 2510.10000",
         "worst-case expected loss by growth functions and concave majorants, at most n + 1 atoms"),
        ("loss-bound", "certificates:LossBound", "2510.10000, 2601.01311",
         "`certify --loss`: proved bound of the worst-case expected loss, by growth bounds and their dual"),
        ("lipschitz", "certificates:lipschitz_table", "2510.10000, 2210.07394",
         "Lipschitz constants: products of norms, Jacobian bounds, exact over activation cells"),
        ("supports", "attacks:compare_supports", "2510.10000",
         "worst-case laws of N, 2N, n + 1 and K atoms a sample compared"),
    )
)  # fmt: skip


_FOREIGN = tuple(
    _attack(f"{library}:<{what}>", "Foreign", description, reference, foreign=True)
    for library, what, reference, description in (
        ("foolbox", "attack", "1707.04131", "any attack of Foolbox, for example foolbox:L2DeepFoolAttack, in our knapsack"),
        ("torchattacks", "attack", "2010.01950", "any attack of torchattacks, for example torchattacks:APGD, in our knapsack"),
        ("autoattack", "version", "2003.01690", "the authors' AutoAttack (standard, plus, rand, custom) in our knapsack"),
    )
)  # fmt: skip


def foreign_methods() -> tuple[Method, ...]:
    """Attacks of other libraries: the form of their names.

    >>> [method.name for method in foreign_methods()]
    ['foolbox:<attack>', 'torchattacks:<attack>', 'autoattack:<version>']
    """
    return _FOREIGN


def study_methods() -> tuple[Method, ...]:
    """Studies with a command of their own.

    >>> [method.name for method in study_methods()]
    ['loss', 'loss-bound', 'lipschitz', 'supports']
    """
    return _STUDIES


def attack_methods() -> tuple[Method, ...]:
    """All attacks, the default first.

    >>> attack_methods()[0].name
    'wda++'
    """
    return _ATTACKS


def certificate_methods() -> tuple[Method, ...]:
    """All certificates, the default first.

    >>> [method.name for method in certificate_methods() if not method.images]
    ['crown', 'auto', 'bab', 'input-split', 'forward', 'crown-ibp', 'interval']
    """
    return _CERTIFICATES


def find_method(kind: Literal["attack", "certificate"], name: str) -> Method:
    """The catalogue entry of a name.

    Raises:
        InputError: for an unknown name, with the nearest one.

    >>> find_method("attack", "w-pgd").reference
    '2306.09844'
    """
    foreign = _FOREIGN if kind == "attack" else ()
    for entry in foreign:
        if name.partition(":")[0] == entry.name.partition(":")[0] and ":" in name:
            return replace(entry, name=name, preset={"attack": name})
    known = {method.name: method for method in ((*_ATTACKS, *foreign) if kind == "attack" else _CERTIFICATES)}
    if name not in known:
        near = nearest(name, known)
        raise InputError(f"unknown {kind} {name!r}; did you mean {near!r}? Allowed: {', '.join(known)}")
    return known[name]
