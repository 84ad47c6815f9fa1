"""The instructor's side: submissions in, marks and feedback out."""
