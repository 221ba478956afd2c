"""What a command has printed, read back."""

import re


def value(output, key):
    """The rest of the line that begins with a key."""
    return re.search(rf"^{re.escape(key)} +(.*)$", output, re.MULTILINE)[1]
