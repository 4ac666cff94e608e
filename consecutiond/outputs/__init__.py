"""Outputs that take each item once, however often it comes."""
