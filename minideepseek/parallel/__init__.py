"""Many devices: how work and weights are divided among them, and what waiting and sending cost."""
