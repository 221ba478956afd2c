"""What is timed, and against what. A package, since other distributions install one of this name."""
