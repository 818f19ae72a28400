"""UCI heart disease, four hospitals, 920 rows (CC BY 4.0; see ATTRIBUTION.md)."""
