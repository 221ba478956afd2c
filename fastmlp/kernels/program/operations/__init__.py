"""What operations do in compiled programs: a file for each kind, one for all formulas of a row."""
