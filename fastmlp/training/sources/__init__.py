"""Sources of rows that come block by block, walked again for every epoch: one file a kind."""
