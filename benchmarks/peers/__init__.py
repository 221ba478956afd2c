"""What fastmlp is compared with: a file a library, each with the ways to take a work's steps.

ways(work, threads, shuffle, way) : by name, prepare(), which returns run(epochs); run trains and returns the
    epochs' mean losses, the last epoch's last. `way` is the name that was asked for, or ""
unsupported(work) : the reason why the library does not take a work, or None
prepare_predict(work, threads) : returns the call on X
"""

from fastmlp import SGD, Adam, AdamW, SparseAdam


def takes_adam(optimizer):
    """Return True for steps of Adam's kind, False for SGD's; TypeError for others, which no peer has."""
    if type(optimizer) in (Adam, AdamW, SparseAdam):
        return True
    if type(optimizer) is not SGD:
        raise TypeError(
            f"no peer takes steps of {type(optimizer).__name__}; choose from: SGD, Adam, AdamW, SparseAdam"
        )
    return False
