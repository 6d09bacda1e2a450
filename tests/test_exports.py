"""The public face is short, explicit and documented."""

from __future__ import annotations

import importlib
import inspect

import pytest

PUBLIC = {
    "wassertight": [
        "DiscreteMeasure", "FlipDistances", "Report", "__version__", "attacks", "benchmark", "certificates", "data",
        "evaluation", "load_data", "load_model", "models", "report", "robust_loss", "threat", "threats", "training",
    ],
    "wassertight.attacks": [
        "A3", "APGD", "DDN", "FAB", "FGSM", "FMN", "PDPGD", "PGD", "WDA", "ARMOR", "Penalty", "Reweighting", "Attack", "AttackResult", "AutoAttack",
        "BisectedAPGD", "DeepFool", "DualProjection", "ExpectedLoss", "Found", "FrankWolfe", "LossResult", "MinimumNorm", "Problem",
        "SinkhornPGD", "SmoothedFrankWolfe", "SmoothedResult", "Square", "Support", "TransportDistance", "WDAPlusPlus", "compare_supports", "conclude",
        "Foreign", "as_foolbox", "as_torchattacks",
    ],
    "wassertight.certificates": [
        "AccuracyCurve", "Auto", "Bracket", "BranchAndBound", "Certificate", "CertificateMethod", "ConeAudit", "CrownIBP",
        "ForwardPropagation", "Gap", "GrowthBound", "InputSplit", "IntervalPropagation", "LinearPropagation",
        "LipschitzBounds", "LipschitzRow", "LossBound", "LossCertificate", "Population", "Proved", "Task",
        "DeterministicFlowSmoothing", "DeterministicSplittingSmoothing", "GaussianFlowSmoothing", "GaussianPixelSmoothing",
        "LaplaceFlowSmoothing", "LaplacePixelSmoothing", "NoisyVoteCertificate", "NoisyVotes", "SmoothedCertificate", "SplittingSmoothing", "UniformPixelSmoothing",
        "Verdict", "ZonotopeFlowSmoothing",
        "accuracy_curves", "area_under", "population_accuracy", "proved_accuracy", "reweighted_loss", "concentration_radius", "cone_audit", "jacobian_bounds", "lipschitz_constants", "lipschitz_table",
        "local_lipschitz", "smoothed_answers",
    ],
    "wassertight.threats": ["AuditReport", "Decomposition", "DivergenceBall", "ImageWasserstein", "moves_alone", "PointwiseBall", "ThreatModel", "WassersteinBall", "audit_measure", "parse", "threat"],
    "wassertight.transport": [
        "KL", "AlphaDivergence", "Divergence", "Ending", "HardBall", "JointAllocation", "LearnedDual", "MoveCost", "PowerCost",
        "Renyi", "SoftBall", "WorstWeights", "allocate_jointly", "divergence_named", "dual_slack", "flip_table", "joint_curve",
        "weights_at_price", "worst_error", "worst_weights",
        "Allocation", "DiscreteMeasure", "FlipDistances", "SegmentAllocation", "allocate_segments", "mean_cost",
        "sample_distances",
    ],
    "wassertight.report": [
        "bracket_figure", "brackets_table", "claim_table", "flow_figure", "freedoms_table", "heaviest_lines", "radii_figure", "results_table",
        "save_figure", "save_flow_figure", "save_radii_figure", "stored_arrays", "write_page",
        "Leaderboard", "LeaderboardRow", "read_leaderboard", "write_leaderboard",
    ],
    "wassertight.training": [
        "ARMOR", "AdversarialWeights", "Context", "Crafted", "Knapsack", "MART", "NoiseTraining", "Objective", "Outer",
        "PGDTraining", "RandomWeights", "Settings", "Standard", "TRADES", "Trained", "UDR", "WDRO", "WRM", "cheap_attack",
        "find_objective", "make_objective", "objective_entries", "perturb_once", "reset_last_layer", "robust_loss", "train",
    ],
    "wassertight.models": [
        "MODEL_FORMS", "Binarize", "LoadedModel", "Normalise", "PadSubsample", "Residual", "VisionTransformer", "build", "list_architectures",
        "list_models", "load_model", "new_model", "save_network",
    ],
    "wassertight.data": ["DATA_FORMS", "LabelledData", "as_tensors", "list_data", "load_data"],
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_exports(name: str) -> None:
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(PUBLIC[name])
    for export in module.__all__:
        value = getattr(module, export)
        if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value):
            assert inspect.getdoc(value), f"{name}.{export} has no docstring"
