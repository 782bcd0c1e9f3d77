"""The items of TRIPOD+AI and CLAIM, with what a run knows about each.

TRIPOD+AI: Collins et al., BMJ 2024;385:e078378 (CC BY 4.0). CLAIM: Mongan et al., Radiol. Artif. Intell.
2020;2(2):e200029, whose numbers are used here. Numbers and order are those of the checklists; the wording is shortened.
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
        ("1", "Title: developing or evaluating a prediction model, its target population and outcome", ""),
        ("2", "Abstract: by TRIPOD+AI for Abstracts", ""),
        ("3a", "Background: healthcare context, rationale, existing models", ""),
        ("3b", "Background: target population, purpose in the care pathway, intended users", ""),
        ("3c", "Background: known health inequalities between sociodemographic groups", ""),
        ("4", "Objectives: development, evaluation, or both", ""),
        ("5a", "Data: sources for development and evaluation, rationale, representativeness", known["data"]),
        ("5b", "Data: dates of the start and end of accrual, and of follow-up", ""),
        ("6a", "Participants: setting, number and location of centres", ""),
        ("6b", "Participants: eligibility criteria", ""),
        ("6c", "Participants: treatments received, and how they were handled", ""),
        (
            "7",
            "Data preparation: pre-processing and quality checks, and whether similar across groups",
            known["preparation"],
        ),
        ("8a", "Outcome: definition, time horizon, how and when it was assessed, rationale", known["outcome"]),
        ("8b", "Outcome: assessors' qualifications and demographics, where it is subjective", ""),
        ("8c", "Outcome: actions to blind its assessment", ""),
        ("9a", "Predictors: initial choice and pre-selection", "the image alone"),
        ("9b", "Predictors: definition, how and when they were measured, blinding", known["input"]),
        ("9c", "Predictors: assessors' qualifications, where they are subjective", "not applicable: pixels"),
        (
            "10",
            "Sample size: how it was arrived at, for development and evaluation, and why it is sufficient",
            f"{known['size']}; why this many: {FILL}",
        ),
        (
            "11",
            "Missing data: how they were handled, reasons for omitting data",
            "files that cannot be read are excluded with a reason in images.csv of the dataset",
        ),
        ("12a", "Analysis: how the data were used, and whether they were partitioned", known["partitions"]),
        ("12b", "Analysis: handling of predictors, such as rescaling and standardisation", known["preparation"]),
        (
            "12c",
            "Analysis: type of model, rationale, building steps, hyperparameter tuning, internal validation",
            known["model"],
        ),
        (
            "12d",
            "Analysis: heterogeneity across clusters, such as hospitals or countries",
            f"results by slices; centres: {FILL}",
        ),
        ("12e", "Analysis: measures and plots of performance, and their rationale", known["metrics"]),
        (
            "12f",
            "Analysis: model updating that arose from the evaluation, such as recalibration",
            "none by the program",
        ),
        ("12g", "Analysis: how the predictions were calculated for the evaluation", known["predictions"]),
        ("13", "Class imbalance: methods, why and how, and recalibration after them", known["balance"]),
        ("14", "Fairness: approaches and their rationale", ""),
        (
            "15",
            "Model output: what it is, rationale of a classification, how thresholds were identified",
            known["output"],
        ),
        (
            "16",
            "Training versus evaluation: differences in setting, eligibility, outcome and predictors",
            known["difference"],
        ),
        ("17", "Ethical approval, and consent or its waiver", ""),
        ("18a", "Funding: its source, and the role of the funders", ""),
        ("18b", "Conflicts of interest and financial disclosures", ""),
        ("18c", "Protocol: where it is, or that there is none", ""),
        ("18d", "Registration: register and number, or that there is none", ""),
        ("18e", "Data sharing: availability of the data", ""),
        ("18f", "Code sharing: availability of the analytical code", f"{known['software']}; your own code: {FILL}"),
        ("19", "Patient and public involvement", ""),
        (
            "20a",
            "Results: flow of participants, with and without the outcome",
            f"images.csv and report.html of the dataset; patients: {FILL}",
        ),
        ("20b", "Results: characteristics of participants, overall and by source or setting", ""),
        ("20c", "Results: distribution of important predictors beside that of the development data", ""),
        ("21", "Results: participants and outcome events in each analysis", known["size"]),
        ("22", "Results: specification of the full model, and restrictions to its use", known["specification"]),
        ("23a", "Results: performance with confidence intervals, also of key subgroups", known["performance"]),
        ("23b", "Results: heterogeneity in performance across clusters", known["slices"]),
        ("24", "Results: model updating, the updated model and its performance", "none by the program"),
        ("25", "Discussion: interpretation, with fairness, in the context of objectives and previous studies", ""),
        (
            "26",
            "Discussion: limitations, and their effects on bias, uncertainty and generalisability",
            f"what is not known, above; others: {FILL}",
        ),
        (
            "27a",
            "Usability: how input of poor quality, or that is unavailable, is to be assessed and handled",
            known["unfamiliar"],
        ),
        ("27b", "Usability: whether users interact with input or model, and their expertise", ""),
        ("27c", "Usability: next steps for research, applicability and generalisability", ""),
    )
    return [(number, asked, answer or FILL) for number, asked, answer in items]


def claim(evaluation: Evaluation) -> list[Item]:
    """The items of CLAIM (2020)."""
    known = _known(evaluation)
    items = (
        ("1", "Title or abstract: AI methodology, with the category of technology", ""),
        ("2", "Structured summary of design, methods, results and conclusions", ""),
        ("3", "Scientific and clinical background, intended use and clinical role", ""),
        ("4", "Study objectives and hypotheses", ""),
        ("5", "Prospective or retrospective", ""),
        ("6", "Study goal, such as model creation, exploratory, feasibility or non-inferiority", ""),
        ("7", "Data sources", known["data"]),
        ("8", "Eligibility criteria: how, where and when participants were identified", ""),
        ("9", "Preprocessing of data", known["preparation"]),
        (
            "10",
            "Selection of data subsets",
            "images.csv of the dataset: one row per file, with the reason of an exclusion",
        ),
        ("11", "Definitions of data elements, with common data elements", known["input"]),
        ("12", "De-identification methods", ""),
        (
            "13",
            "How missing data were handled",
            "files that cannot be read are excluded with a reason in images.csv of the dataset",
        ),
        ("14", "Definition of the reference standard", known["outcome"]),
        ("15", "Rationale for the reference standard", ""),
        ("16", "Source of annotations, qualifications and preparation of annotators", ""),
        ("17", "Annotation tools", ""),
        ("18", "Variability between and within raters, and how it was mitigated", ""),
        ("19", "Intended sample size, and how it was determined", f"{known['size']}; why this many: {FILL}"),
        ("20", "How data were assigned to partitions, with proportions", known["partitions"]),
        ("21", "Level at which partitions are disjoint", known["disjoint"]),
        ("22", "Description of the model: inputs, outputs, layers and connections", known["model"]),
        ("23", "Software libraries, frameworks and packages", known["software"]),
        ("24", "Initialisation of parameters", known["initialisation"]),
        ("25", "Training approach: augmentation, hyperparameters, number of models", known["training"]),
        ("26", "Method of selecting the final model", known["selection"]),
        ("27", "Ensembling techniques", known["ensemble"]),
        ("28", "Metrics of model performance", known["metrics"]),
        ("29", "Statistical measures of significance and uncertainty", known["intervals"]),
        ("30", "Robustness or sensitivity analysis", known["slices"]),
        (
            "31",
            "Methods of explainability, and how they were validated",
            "evidence maps of the worst errors in the report; docs/explain.md compares such maps with lesions",
        ),
        ("32", "Validation or testing on external data", known["difference"]),
        (
            "33",
            "Flow of participants or cases, with inclusion and exclusion",
            f"images.csv and report.html of the dataset; patients: {FILL}",
        ),
        ("34", "Demographic and clinical characteristics of cases in each partition", ""),
        (
            "35",
            "Performance of the best model on all partitions",
            f"{known['performance']}; other partitions: octtrain evaluate --split",
        ),
        ("36", "Diagnostic accuracy and its precision", known["performance"]),
        ("37", "Failure analysis of incorrectly classified cases", f"worst errors in the report; their causes: {FILL}"),
        (
            "38",
            "Limitations: bias, statistical uncertainty, generalisability",
            f"what is not known, above; others: {FILL}",
        ),
        ("39", "Implications for practice, intended use and clinical role", ""),
        ("40", "Registration number and registry", ""),
        ("41", "Where the full study protocol can be accessed", ""),
        ("42", "Sources of funding and other support, role of funders", ""),
    )
    return [(number, asked, answer or FILL) for number, asked, answer in items]


def _known(evaluation: Evaluation) -> dict[str, str]:
    """What the run knows, in phrases."""
    content, calibration = evaluation.content, evaluation.calibration
    manifest = evaluation.run.manifest
    recipe = manifest.recipe
    leaks = any(run.manifest.leaks for run in evaluation.runs)
    trained = [dict(facts.training(run)) for run in evaluation.runs]
    found = {name: "; ".join(dict.fromkeys(each[name] for each in trained)) for name in trained[0]}
    members = [run.provenance for run in evaluation.runs]
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
        "model": f"{facts.models(evaluation)}; settings in the command{'s' * evaluation.is_ensemble} above",
        "ensemble": f"mean of the probabilities of {len(evaluation.runs)} runs" if evaluation.is_ensemble else "none",
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
        "specification": "model.keras, SHA-256 " + listed([each["SHA-256 of model.keras"][:12] for each in trained]),
        "performance": "the table above, and the report",
        "slices": "slices in the report: source width, sharpness, fill, crop confidence, source folder",
        "unfamiliar": "scans beyond frozen limits are marked, and withheld with --strict" if calibration else "",
        "initialisation": found["Weights to start from"],
        "training": "; ".join(dict.fromkeys(facts.command(run) for run in evaluation.runs)),
        "selection": "the epoch with the best balanced accuracy on "
        + listed(list(dict.fromkeys(name for member in members for name in member.selected_on))),
        "intervals": "95 % intervals from a bootstrap of patients, exact bounds at 0 and 100 %",
    }
