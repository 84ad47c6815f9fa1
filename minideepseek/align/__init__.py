"""From a model that continues texts to one that answers questions: tuning, preferences, reinforcement, distilling."""
