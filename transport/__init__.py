"""The HTTP/2 edge."""
