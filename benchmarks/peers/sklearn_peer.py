"""scikit-learn: the library's peer (`fastmlp.lab.peers`), and its prediction of one row."""

from functools import partial

import sklearn

from fastmlp.lab import peers

VERSION = sklearn.__version__


def unsupported(work):
    fits = peers.sklearn_fits(work.network, work.optimizer)
    return None if fits else "scikit-learn has no such network, or takes no such steps"


def ways(work, threads, shuffle=True, way=""):
    return {"fit": partial(peers.prepare_sklearn, work.training(threads, shuffle))}


def prepare_predict(work, threads):
    sklearn.set_config(assume_finite=True, skip_parameter_validation=True)
    return work.start().to_sklearn().predict_proba
