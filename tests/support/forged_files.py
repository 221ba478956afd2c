"""Files with a seal that holds and content that nobody sound wrote."""

import hashlib
import io
import zipfile

from fastmlp.files import archive


def sealed(content):
    """The content with a seal that holds: what somebody who means harm would write."""
    unsealed = content[:-64] + archive.UNSEALED
    return content[:-64] + hashlib.sha256(unsealed).hexdigest().encode()


def zipped(*members, comment=archive.SEAL + archive.UNSEALED, compression=zipfile.ZIP_STORED):
    """A sealed archive of members (name, content)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as made:
        for name, content in members:
            made.writestr(name, content)
        made.comment = comment
    return sealed(file.getvalue())
