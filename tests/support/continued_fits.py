"""What tests of trainings that go on share."""

from __future__ import annotations

import fastmlp
from fastmlp import SGD, Adam, Cosine, Network, RMSprop, StepDecay, Warmup
from support.problems import data_set

X, Y = data_set("diabetes", 50)
NETWORK = Network([10, 6, 1], hidden="tanh", dropout=0.3, l2=0.01)

OPTIMIZERS = {
    "sgd": SGD(Warmup(StepDecay(0.05, 2), 5, unit="step")),
    "nesterov": SGD(0.02, 0.9, True, bias_learning_rate=Cosine(0.01, 6), clip_norm=0.5),
    "rmsprop": RMSprop(Cosine(0.01, 12, unit="step"), momentum=0.5),
    "adam": Adam(Cosine(0.01, 5)),
}


def fit(epochs, x=X, y=Y, **options):
    given = {"optimizer": OPTIMIZERS["adam"], "batch_size": 16, "seed": 1, "backend": "reference"}
    return fastmlp.fit(options.pop("network", NETWORK), x, y, epochs=epochs, **{**given, **options})
