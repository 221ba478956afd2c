"""A backend of a test's own in the place of the one that `fit` would choose."""

from __future__ import annotations

from fastmlp.training import setup


def have_chosen(patch, backend):
    """Have `fit` take a backend, whatever it has kept of earlier trainings; patch : pytest's monkeypatch"""
    patch.setattr(setup, "choose", lambda *_: backend)
    patch.setattr(setup, "kept", {})
