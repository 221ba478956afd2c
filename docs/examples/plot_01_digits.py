"""
Hand-written digits
===================

A classifier as in scikit-learn: 64 pixels in, one of ten digits out.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay
from sklearn.model_selection import train_test_split

from fastmlp import MLPClassifier

digits = load_digits()
X_train, X_test, y_train, y_test = train_test_split(digits.data / 16, digits.target, random_state=0)
classifier = MLPClassifier((64,), learning_rate_init=0.005, max_iter=300, random_state=0)
classifier.fit(X_train, y_train)
print(f"{classifier.score(X_test, y_test):.3f} of the test digits, after {classifier.n_iter_} epochs")

# %%
# The digits that it finds hardest: those of whose class it is least certain.

certainty = classifier.predict_proba(X_test).max(axis=1)
hardest = certainty.argsort()[:12]
labels = classifier.predict(X_test[hardest])

figure, axes = plt.subplots(2, 6, figsize=(9, 3.6), layout="constrained")
for axis, row, label in zip(axes.flat, hardest, labels, strict=True):
    axis.imshow(X_test[row].reshape(8, 8), cmap="gray_r")
    axis.set_title(f"{label}, {100 * certainty[row]:.0f} %", color="C2" if label == y_test[row] else "C3")
    axis.axis("off")

# %%
# What is taken for what:

display = ConfusionMatrixDisplay.from_estimator(classifier, X_test, y_test, colorbar=False, cmap="Blues")
display.figure_.set_layout_engine("constrained")
