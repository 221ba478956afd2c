"""Constants that are measured on each machine: the table of them, and how compiled code reads them."""
