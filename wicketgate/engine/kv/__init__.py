"""KV that is kept: prefixes of conversations, in memory and on disk."""
