"""Latency prediction for model servers: TTFT and TPOT per candidate, with calibrated quantiles. Does not import epp.

A user of the package needs `Predictor` (predict, keep, observe), `new_features` and `COLUMN` (the features by name),
and `TrainingProcess` (which learns beside it). The modules, from the inside out:

    features      names, ranges and units; the matrix of candidates     samples     finished requests as rows
    nnls          least squares without negative weights                retention   which samples are kept
    prior         latency as a sum of physical terms                    fitting     prior and trees from samples
    forest        many trees evaluated in numpy at once                 flatten     XGBoost's JSON to arrays
    model         prior times trees, for both targets                   drift       when the world has changed
    calibration   offsets and quantiles per endpoint                    trainer     when to fit, what to publish
    predictor     what an Endpoint Picker calls                         process     the trainer in a process of its own
    snapshot, codec   what is published, as bytes and files             history         observations, for people
    evaluation    how good predictions were                             report          the same with pictures
    dump          trees for people to look at                           servers         the standalone servers (extra)
    cli           epp-predictor train|serve
"""

from epp_predictor.calibration import UNKNOWN, Settings
from epp_predictor.codec import BadSnapshot, load, save
from epp_predictor.features import COLUMN, FEATURES, POD_TYPES, new_features
from epp_predictor.predictor import Decision, Estimate, Prediction, Predictor, TargetStatus
from epp_predictor.process import ProcessSettings, ProcessStatus, TrainingProcess
from epp_predictor.snapshot import Snapshot, TargetSnapshot
from epp_predictor.trainer import Outcome, TrainerSettings

__all__ = [
    "COLUMN",
    "FEATURES",
    "POD_TYPES",
    "UNKNOWN",
    "BadSnapshot",
    "Decision",
    "Estimate",
    "Outcome",
    "Prediction",
    "Predictor",
    "ProcessSettings",
    "ProcessStatus",
    "Settings",
    "Snapshot",
    "TargetSnapshot",
    "TargetStatus",
    "TrainerSettings",
    "TrainingProcess",
    "load",
    "new_features",
    "save",
]
