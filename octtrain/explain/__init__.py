"""Where in a B-scan a model finds evidence for a class, drawn on the source scan."""
