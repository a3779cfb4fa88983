"""Wording: what is written in words or in the spelling of another field, and what value it has."""
