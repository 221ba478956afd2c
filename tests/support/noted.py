"""The calls of a function while a test runs."""


def noted(monkeypatch, place, name):
    """Return the arguments by position of each call from now on; place : a class or a module."""
    found, function = [], getattr(place, name)
    monkeypatch.setattr(place, name, lambda *given, **named: found.append(given) or function(*given, **named))
    return found
