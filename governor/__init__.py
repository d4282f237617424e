"""How much may be in flight."""
