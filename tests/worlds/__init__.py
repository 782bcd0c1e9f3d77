"""Small data sets, drawn for the tests."""
