"""Grade: compares an extracted answer with the gold answer."""
