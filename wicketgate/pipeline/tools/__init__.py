"""How models write tool calls in their answers, and how they are read."""
