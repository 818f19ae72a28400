"""Many runs held against each other: what may differ, the small workspace of each, tables and plots of the result."""
