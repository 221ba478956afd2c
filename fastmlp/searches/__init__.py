"""scikit-learn's searches, validation and bagging of networks trained together."""
