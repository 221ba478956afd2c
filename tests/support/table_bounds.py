"""Constants of `fastmlp.tables` that a test makes small, so that its table need not be large."""

PLACES = {
    **dict.fromkeys(("MANY", "DENSE"), "encoding"),
    "ROWS_AT_ONCE": "encoding",
    "NUMBERS_AT_ONCE": "recipe",
    "MOST_MEANS": "categories",
    "WORDS_OF": "kinds",
    **dict.fromkeys(("BLOCK", "LONGEST"), "reading"),
    **dict.fromkeys(("LEAST_PART", "MARGIN"), "search"),
    "MOST_PREDICTED": "effects",
    "LINEAR_ROWS": "report",
}
"""The modules that have a constant."""


def bound(patch, **given):
    """Set constants until the end of the test, or of the context that a patch is of."""
    for name, value in given.items():
        for module in PLACES[name].split():
            patch.setattr(f"fastmlp.tables.{module}.{name}", value)
