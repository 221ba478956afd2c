"""Networks of scikit-learn's searches, validation and ensembles, trained together: a backend of joblib's."""
