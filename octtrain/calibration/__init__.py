"""Temperature, thresholds and limits of a model: chosen on val, kept beside the model, and applied."""
