"""What is predicted: the target of a cohort, and for each kind of target one module that says all about it."""
