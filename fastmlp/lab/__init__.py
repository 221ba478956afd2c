"""The kernel lab: agreement, time and a reason for every variant, `fastmlp bench`."""
