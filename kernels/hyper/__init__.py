"""What hyper-connections do to every token, in Triton: numbers read off its streams, a matrix evened out, mixing."""
