"""Public cohorts: where each comes from, how it is verified, and how it becomes one table a hospital."""
