"""The engine host, what it speaks, and the gateway's end of the line."""
