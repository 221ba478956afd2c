"""`fit`: chunks of steps, the rows that they visit, and what happens between them."""
