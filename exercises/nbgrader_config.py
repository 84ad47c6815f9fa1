"""What nbgrader needs to know of these exercises; exercises/INSTRUCTORS.md says how it is used."""

from nbgrader.preprocessors import CheckCellMetadata, ClearOutput, ComputeChecksums, LockCells, SaveCells

c = get_config()  # noqa: F821  nbgrader reads this file with that name in place

# The built notebooks hold no solutions, and some stubs are a line with a bug or a variable without a number: nbgrader's
# ClearSolutions, which knows one stub for all, must not touch them.
c.GenerateAssignment.preprocessors = [LockCells, ClearOutput, CheckCellMetadata, ComputeChecksums, SaveCells]

c.Execute.timeout = 120  # seconds for one cell: an endless loop costs the rest of that notebook
