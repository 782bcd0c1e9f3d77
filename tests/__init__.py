"""Tests, in a folder for each package of the programs; `worlds` draws the small data sets they use."""
