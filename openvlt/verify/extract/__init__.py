"""Extract: finds the final answer in a response."""
