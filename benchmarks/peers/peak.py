"""The machine's own FMA rate as one of the peers."""

from fastmlp.lab.peak import VERSION, prepare

__all__ = ["VERSION", "prepare"]
