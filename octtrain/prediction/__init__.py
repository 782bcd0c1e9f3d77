"""A run's model applied to images as they come from the device."""
