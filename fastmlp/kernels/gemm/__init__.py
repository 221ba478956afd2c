"""Matrix products: register tiles, panels, and the choice among them."""
