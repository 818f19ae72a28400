"""Where a hospital's raw rows come from: files first. What comes out is one clean table under the declaration."""
