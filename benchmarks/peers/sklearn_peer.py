"""scikit-learn: the library's peer (`fastmlp.lab.peers`), and its prediction of one row."""

from functools import partial

import sklearn

from fastmlp.lab import peers

VERSION = sklearn.__version__

SCRIPT = """
import sys, warnings, numpy
from sklearn.neural_network import MLPClassifier
warnings.simplefilter("ignore")
data = numpy.load(sys.argv[1])
model = MLPClassifier((100,), batch_size=32, alpha=0, max_iter=20, random_state=0).fit(data["X"], data["y"])
print(model.score(data["X"], data["y"]))
"""


def unsupported(work):
    fits = peers.sklearn_fits(work.network, work.optimizer)
    return None if fits else "scikit-learn has no such network, or takes no such steps"


def ways(work, threads, shuffle=True, way=""):
    return {"fit": partial(peers.prepare_sklearn, work.training(threads, shuffle))}


def prepare_predict(work, threads):
    sklearn.set_config(assume_finite=True, skip_parameter_validation=True)
    return work.start().to_sklearn().predict_proba
