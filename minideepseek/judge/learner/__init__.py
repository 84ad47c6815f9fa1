"""The learner's side: ask for a verdict, a hint, the solution, and see what is done."""
