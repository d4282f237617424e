"""The one folder that imports mlx and mlx_lm."""
