"""scikit-learn's MLPClassifier and MLPRegressor: the same contract and trajectory, on fastmlp's trainer."""
