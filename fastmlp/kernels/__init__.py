"""The compiled backends: slots and program templates, joined by `bind` into variants."""
