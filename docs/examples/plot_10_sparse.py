"""
Text classification with sparse inputs
======================================

A text has few of all the words that there are. A row of a CSR matrix lists those that it has, and the
first layer pays for them alone: nothing is made dense. The texts are SciPy's own docstrings; the network
predicts which of its modules a function is from.
"""

import inspect

import matplotlib.pyplot as plt
import numpy as np
import scipy
from scipy.sparse import eye_array
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split

import fastmlp

MODULES = ("stats", "signal", "linalg", "optimize", "special", "ndimage")

texts = {}  # each once: some functions have two names
for module in MODULES:
    functions = vars(getattr(scipy, module))
    for name in getattr(scipy, module).__all__:
        texts.setdefault(inspect.getdoc(functions[name]), module)
texts = {text: module for text, module in texts.items() if text and len(text) > 300}

vectorizer = TfidfVectorizer(token_pattern=r"[a-z]{3,}", min_df=2, stop_words="english", dtype=np.float32)
X, y = vectorizer.fit_transform(texts), list(texts.values())
print(f"{X.shape[0]} texts, {X.shape[1]} words, {X.nnz / X.shape[0]:.0f} of them in a text")
print(f"{X.data.nbytes + X.indices.nbytes:,} bytes; {4 * np.prod(X.shape):,} as a dense array")

X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
solver = fastmlp.SparseAdam(0.01)  # a step changes the words of its batch only
classifier = fastmlp.MLPClassifier((32,), solver=solver, alpha=0, random_state=0)
classifier.fit(X_train, y_train)
print(f"right for {100 * classifier.score(X_test, y_test):.1f} % of the texts that it has not seen")

# %%
# A row with a single word shows what the network thinks of this word: here those that it is surest of.

of_words = classifier.predict_proba(eye_array(X.shape[1], format="csr", dtype=np.float32))
words = vectorizer.get_feature_names_out()
figure, axes = plt.subplots(2, 3, figsize=(9, 5), layout="constrained")
for axis, module, column in zip(axes.flat, classifier.classes_, of_words.T, strict=True):
    surest = column.argsort()[-8:]
    axis.barh(words[surest], column[surest])
    axis.set(title=f"scipy.{module}", xlim=(0, 1))
