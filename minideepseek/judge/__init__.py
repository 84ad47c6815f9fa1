"""The judge: exercises checked at once for the learner, in bulk and in a sandbox for the instructor."""
