"""What fastmlp is compared with: a file a library, each with the ways to take a work's steps.

ways(work, threads, shuffle, way) : by name, prepare(), which returns run(epochs); run trains and returns the
    epochs' mean losses, the last epoch's last. `way` is the name that was asked for, or ""
unsupported(work) : the reason why the library does not take a work, or None
prepare_predict, prepare_jacobian : (work, threads), returns the call on X
SCRIPT : from a process's start to trained digits; prints the training accuracy
"""
