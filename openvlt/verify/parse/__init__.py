"""Parse: reads an answer text as a typed value."""
