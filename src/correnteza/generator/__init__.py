"""Where records come from: made up (`people`), replayed from a file (`replay`), or posted by others."""
