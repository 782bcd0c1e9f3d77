"""The items of TRIPOD+AI and CLAIM, with what a run knows about each.

TRIPOD+AI: Collins et al., BMJ 2024;385:e078378. CLAIM: Mongan et al., Radiol. Artif. Intell. 2020;2(2):e200029, whose
numbers are used here. The wording of the items is shortened.
"""

from __future__ import annotations

from octprep.wording import listed
from octtrain.report import facts
from octtrain.report.evaluation import Evaluation

FILL = "for you to fill"

Item = tuple[str, str, str]  # number, what is asked for, what the run knows


def tripod_ai(evaluation: Evaluation) -> list[Item]:
    """The items of TRIPOD+AI."""
    known = _known(evaluation)
    items = (
        ("1", "Title: study of a prediction model, population, outcome", ""),
        ("2", "Abstract", ""),
        ("3a", "Background: healthcare context and rationale", ""),
        ("3b", "Background: target population, purpose, intended users", ""),
        ("3c", "Background: known health inequalities", ""),
        ("4", "Objectives: development, evaluation, or both", ""),
        ("5a", "Data: sources, and how representative they are", known["data"]),
        ("5b", "Data: dates", ""),
        ("6a", "Participants: setting and number of centres", ""),
        ("6b", "Participants: eligibility", ""),
        ("6c", "Participants: treatments received", ""),
        ("7", "Data preparation and quality checks", known["preparation"]),
        ("8a", "Outcome: definition, and how and when it was assessed", known["outcome"]),
        ("8b", "Outcome: assessors' qualifications, where it is subjective", ""),
        ("8c", "Outcome: blinding of the assessment", ""),
        ("9a", "Predictors: choice", "the image alone"),
        ("9b", "Predictors: definition and measurement", known["input"]),
        ("9c", "Predictors: assessors' qualifications, where they are subjective", "not applicable: pixels"),
        ("10", "Sample size: how it was arrived at", f"{known['size']}; why this many: {FILL}"),
        ("11", "Missing data", "files that cannot be read are excluded with a reason in images.csv of the dataset"),
        ("12a", "Analysis: how data were used, partitions", known["partitions"]),
        ("12b", "Analysis: handling of predictors", known["preparation"]),
        ("12c", "Analysis: type of model, building steps, hyperparameters, internal validation", known["model"]),
        ("12d", "Analysis: differences between clusters, such as centres", f"results by slices; centres: {FILL}"),
        ("12e", "Analysis: measures of performance", known["metrics"]),
        ("12f", "Analysis: model updating after evaluation", "none by the program"),
        ("12g", "Analysis: how predictions were made for the evaluation", known["predictions"]),
        ("13", "Class imbalance", known["balance"]),
        ("14", "Fairness: approaches and their rationale", ""),
        ("15", "Model output: what it is, thresholds", known["output"]),
        ("16", "Differences between development and evaluation data", known["difference"]),
        ("17", "Ethical approval and consent", ""),
        ("18a", "Funding", ""),
        ("18b", "Conflicts of interest", ""),
        ("18c", "Protocol", ""),
        ("18d", "Registration", ""),
        ("18e", "Data sharing", ""),
        ("18f", "Code sharing", f"{known['software']}; your own code: {FILL}"),
        ("19", "Patient and public involvement", ""),
        ("20a", "Results: flow of participants", f"images.csv and report.html of the dataset; patients: {FILL}"),
        ("20b", "Results: characteristics of participants", ""),
        ("20c", "Results: comparison of development and evaluation data", ""),
        ("21", "Results: participants and outcome events in each analysis", known["size"]),
        ("22", "Results: model specification", known["specification"]),
        ("23a", "Results: performance with confidence intervals, also of subgroups", known["performance"]),
        ("23b", "Results: differences in performance between clusters", known["slices"]),
        ("24", "Results: model updating", "none by the program"),
        ("25", "Discussion: interpretation", ""),
        ("26", "Discussion: limitations", f"what is not known, above; others: {FILL}"),
        ("27a", "Usability: input of poor quality or unavailable", known["unfamiliar"]),
        ("27b", "Usability: users' expertise and interaction", ""),
        ("27c", "Usability: next steps, generalisability", ""),
    )
    return [(number, asked, answer or FILL) for number, asked, answer in items]


def claim(evaluation: Evaluation) -> list[Item]:
    """The items of CLAIM (2020)."""
    known = _known(evaluation)
    items = (
        ("1", "Title or abstract: names the AI methodology", ""),
        ("2", "Structured summary", ""),
        ("3", "Background and intended use", ""),
        ("4", "Objectives and hypotheses", ""),
        ("5", "Prospective or retrospective", ""),
        ("6", "Study goal", ""),
        ("7", "Data sources", known["data"]),
        ("8", "Eligibility criteria", ""),
        ("9", "Preprocessing of data", known["preparation"]),
        (
            "10",
            "Selection of data subsets",
            "images.csv of the dataset: one row per file, with the reason of an exclusion",
        ),
        ("11", "Definitions of data elements", known["input"]),
        ("12", "De-identification", ""),
        ("13", "Missing data", "files that cannot be read are excluded with a reason in images.csv of the dataset"),
        ("14", "Definition of the reference standard", known["outcome"]),
        ("15", "Rationale for the reference standard", ""),
        ("16", "Source of annotations, annotators' qualifications", ""),
        ("17", "Annotation tools", ""),
        ("18", "Variability of annotations", ""),
        ("19", "Intended sample size", f"{known['size']}; why this many: {FILL}"),
        ("20", "Assignment of data to partitions", known["partitions"]),
        ("21", "Level at which partitions are disjoint", known["disjoint"]),
        ("22", "Description of the model", known["model"]),
        ("23", "Software and versions", known["software"]),
        ("24", "Initialisation of parameters", known["initialisation"]),
        ("25", "Training approach", known["training"]),
        ("26", "Selection of the final model", known["selection"]),
        ("27", "Ensembling", "none"),
        ("28", "Metrics of performance", known["metrics"]),
        ("29", "Measures of uncertainty", known["intervals"]),
        ("30", "Robustness or sensitivity analysis", known["slices"]),
        ("31", "Explainability", "octtrain explain draws the evidence for a class on a scan; not part of this card"),
        ("32", "Validation on external data", known["difference"]),
        ("33", "Flow of participants", f"images.csv and report.html of the dataset; patients: {FILL}"),
        ("34", "Demographics and clinical characteristics", ""),
        ("35", "Performance on all partitions", f"{known['performance']}; other partitions: octtrain evaluate --split"),
        ("36", "Diagnostic accuracy and its precision", known["performance"]),
        ("37", "Failure analysis", f"worst errors in the report; their causes: {FILL}"),
        ("38", "Limitations", f"what is not known, above; others: {FILL}"),
        ("39", "Implications for practice", ""),
        ("40", "Registration", ""),
        ("41", "Where the protocol is", ""),
        ("42", "Funding", ""),
    )
    return [(number, asked, answer or FILL) for number, asked, answer in items]


def _known(evaluation: Evaluation) -> dict[str, str]:
    """What the run knows, in phrases."""
    run, content, calibration = evaluation.run, evaluation.content, evaluation.calibration
    manifest = run.manifest
    recipe, provenance = manifest.recipe, run.provenance
    leaks = manifest.leaks
    found = dict(facts.training(evaluation))
    thresholds = [
        f"{name} {calibration[name]['threshold']:g}"
        for name in ("referral", "abstention")
        if calibration and calibration[name]
    ]
    return {
        "data": f"dataset {manifest.digest[:12]} of {manifest.source['kept']:,} images; where they come from: {FILL}",
        "preparation": "octprep, by the steps and settings in the report: inpainting, crop, denoising, resizing",
        "outcome": f"classes {', '.join(evaluation.class_names)}, as the source's folders say; how they were assessed: "
        + FILL,
        "input": f"one B-scan, {recipe.height} x {recipe.width} gray pixels after preprocessing",
        "size": f"trained and selected on patients {found['Patients that the model was exposed to']}; evaluated on "
        f"{facts.amount(content)}",
        "partitions": f"{manifest.config.split}, seed {manifest.config.seed}; {facts.dataset(evaluation)}",
        "disjoint": "patient groups: ids that share a scan are one; "
        + ("violated, see the report" if leaks else "no patient is in two splits"),
        "model": f"{run.config.model}; settings in the command above",
        "metrics": "balanced accuracy, accuracy, F1, AUC, MCC; per class sensitivity, specificity, precision, AUC and "
        "PR-AUC; per image and per patient" + ("; ECE, Brier score, NLL" if calibration else ""),
        "predictions": f"the stored model, once over {content['split']}"
        + (", after the temperature chosen on " + calibration["chosen_on"] if calibration else ""),
        "balance": f"{manifest.config.balance} of train; val and test as they are",
        "output": "a probability for each class" + (f"; frozen thresholds: {listed(thresholds)}" if thresholds else ""),
        "difference": "evaluated on the run's own dataset, not on external data"
        if evaluation.is_own_dataset
        else f"external dataset {content['digest'][:12]}; how it differs: {FILL}",
        "software": found["Versions"],
        "specification": f"model.keras, SHA-256 {found['SHA-256 of model.keras'][:12]}",
        "performance": "the table above, and the report",
        "slices": "slices in the report: source width, sharpness, fill, crop confidence, source folder",
        "unfamiliar": "scans beyond frozen limits are marked, and withheld with --strict" if calibration else "",
        "initialisation": found["Weights to start from"],
        "training": facts.command(evaluation),
        "selection": f"the epoch with the best balanced accuracy on {listed(provenance.selected_on)}",
        "intervals": "95 % intervals from a bootstrap of patients, exact bounds at 0 and 100 %",
    }
