"""scikit-learn's searches, validation and bagging, whose networks train together."""
